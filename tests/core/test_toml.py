"""TOML as written is read back unchanged by the standard library."""

from __future__ import annotations

import math
import tomllib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slpd_toolkit.core.toml import toml_text

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PLAIN = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXT
NESTED = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))


@pytest.mark.slow
@given(st.dictionaries(TEXT, NESTED, max_size=5))
def test_what_is_written_is_read_back(table: dict[str, object]) -> None:
    assert tomllib.loads(toml_text(table)) == table


def test_layout() -> None:
    table = {"about": {"version": "1", "n d": [1, 2]}, "lr": 1e-5, "tensorboard": False, "name": 'a "b"\n\x7f'}
    assert toml_text(table) == (
        'lr = 1e-05\ntensorboard = false\nname = "a \\"b\\"\\n\\u007f"\n\n[about]\nversion = "1"\n"n d" = [1, 2]\n'
    )


def test_other_numbers_and_types() -> None:
    assert math.isnan(tomllib.loads(toml_text({"a": math.nan}))["a"])
    assert tomllib.loads(toml_text({"a": np.float64(0.5)})) == {"a": 0.5}
    with pytest.raises(TypeError, match="no type for None"):
        toml_text({"a": None})
