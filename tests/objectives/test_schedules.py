from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slpd_toolkit.objectives.schedules import cosine

if TYPE_CHECKING:
    from tests.published import PublishedNumbers


def test_schedules_are_those_of_the_published_code(published: PublishedNumbers) -> None:
    steps = 100 * 50
    learning_rate = cosine(0.0005, 1e-6, iterations=steps, warmup_iterations=10 * 50)
    np.testing.assert_allclose(learning_rate[::97], published.arrays["schedule/lr"], rtol=1e-12)
    np.testing.assert_allclose(cosine(0.04, 0.4, iterations=steps)[::97], published.arrays["schedule/wd"], rtol=1e-12)
    momentum = cosine(0.996, 1.0, iterations=steps)[::97]
    np.testing.assert_allclose(momentum, published.arrays["schedule/momentum"], rtol=1e-12)


@given(st.integers(1, 60), st.data())
def test_rises_linearly_to_its_start_and_then_falls_to_its_end(iterations: int, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(0, iterations))
    values = cosine(1.0, 0.1, iterations=iterations, warmup_iterations=warmup, warmup_start=0.25)
    assert values.shape == (iterations,)
    assert (np.diff(values[warmup:]) <= 0).all()
    assert (values[warmup:] >= 0.1).all()
    if warmup > 1:
        np.testing.assert_allclose(np.diff(values[:warmup]), 0.75 / (warmup - 1))
        assert values[warmup - 1] == 1.0
    if warmup < iterations:
        assert values[warmup] == 1.0


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="0 to 5 iterations, got 6"):
        cosine(1.0, 0.0, iterations=5, warmup_iterations=6)
