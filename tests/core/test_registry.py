"""Registries find modules by file name, without importing them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def animals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    folder = tmp_path / "animals_of_the_test"
    folder.mkdir()
    (folder / "__init__.py").write_text('"""Animals."""\n')
    (folder / "polar_bear.py").write_text('"""Lives on ice.\n\nMore about it."""\n\nLEGS = 4\n')
    (folder / "unloadable.py").write_text('"""Cannot be imported."""\n\nraise RuntimeError\n')
    (folder / "_helper.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    return Registry("animals_of_the_test", "--animal")


def test_files_are_entries(animals: Registry) -> None:
    assert animals.names() == ("polar-bear", "unloadable")
    assert animals.summary("polar-bear") == "Lives on ice."
    assert animals.summary("unloadable") == "Cannot be imported."
    assert "animals_of_the_test.unloadable" not in sys.modules
    assert animals.load("polar-bear").LEGS == 4


def test_an_unknown_name_is_refused_with_those_that_exist(animals: Registry) -> None:
    with pytest.raises(UsageError, match=r"--animal: got polar-beer, allowed: polar-bear, unloadable\.") as caught:
        animals.load("polar-beer")
    assert caught.value.hint == "Did you mean polar-bear?"
