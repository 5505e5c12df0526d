"""Runs the examples in docstrings."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest

MODULES = ("slpd_toolkit.objectives.distillation",)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name: str) -> None:
    found = doctest.testmod(import_module(name), raise_on_error=False)
    assert found.attempted > 0
    assert found.failed == 0
