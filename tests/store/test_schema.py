"""Checks of tokens compared with numpy."""

from __future__ import annotations

import numpy as np
import pytest

from slpd_toolkit.store import schema


def test_every_float16_is_finite_where_numpy_says_so() -> None:
    numbers = np.arange(1 << 16, dtype=np.uint16).view(schema.TOKEN_DTYPE)
    finite = np.isfinite(numbers)
    assert schema.all_finite(numbers[finite])
    assert not any(schema.all_finite(number[None]) for number in numbers[~finite])


@pytest.mark.parametrize("shape", [(0, 8), (3, 8)])
def test_one_number_among_others_is_seen_in_arrays_of_any_order(shape: tuple[int, int]) -> None:
    numbers = np.ones(shape, schema.TOKEN_DTYPE).T
    assert schema.all_finite(numbers)
    if numbers.size:
        numbers[-1, -1] = -np.inf
        assert not schema.all_finite(numbers)
