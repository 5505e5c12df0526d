"""Runs the examples in the docstrings of the public names and on their documentation page."""

from __future__ import annotations

import doctest
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import slpd_toolkit as slpd
from slpd_toolkit.core import console
from slpd_toolkit.report import evaluation_folder
from tests.api.place import furnish
from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = REPOSITORY / "docs/python.md"
IN_ORDER = list(slpd._MODULE_OF)  # the commands, as a user calls them one after another, then all others
LONG = ("run_demo",)
"""Examples that take more than a few seconds."""
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.fixture
def _in_place(tmp_path: Path) -> Iterator[None]:
    """Change to a furnished folder, because examples use relative paths."""
    before = Path.cwd()
    furnish(tmp_path)
    os.chdir(tmp_path)
    yield
    os.chdir(before)
    console.VERBOSITY.quiet = False


def failures(text: str, name: str) -> str:
    """Return the failures of the examples in a text, which must contain some."""
    test = doctest.DocTestParser().get_doctest(text, {"slpd": slpd, "np": np, "torch": torch}, name, name, 0)
    assert test.examples, f"{name} has no example"
    said: list[str] = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=said.append)
    return "".join(said)


@pytest.mark.slow
@pytest.mark.usefixtures("no_curves", "_no_report", "_in_place")
def test_the_examples_of_all_names_and_of_the_page_run() -> None:
    """In one test, because examples use the results of earlier commands."""
    texts = {name: getattr(slpd, name).__doc__ for name in IN_ORDER if name not in LONG}
    assert "".join(failures(text, name) for name, text in texts.items()) == ""
    assert failures(PAGE.read_text(encoding="utf-8"), PAGE.name) == ""


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("_in_place")
@pytest.mark.parametrize("name", LONG)
def test_a_long_example_runs(name: str) -> None:
    assert failures(getattr(slpd, name).__doc__, name) == ""


@pytest.fixture
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the report, because drawing it takes longer than a tiny evaluation."""
    monkeypatch.setattr(evaluation_folder, "write_report", lambda path, *_: path.write_text("<html/>"))
