"""Covariates as vectors that depend on the training slides only."""

from __future__ import annotations

import numpy as np
import pytest

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.cohort.covariates import design_matrix, read_covariates


def test_missing_numbers_have_the_training_median_and_an_indicator() -> None:
    (age,) = read_covariates({"age": np.array(["40", "", "60", "50", "1000", ""])})
    np.testing.assert_array_equal(
        age.encode(np.array([0, 1, 2, 3])), [[-10, 0], [0, 1], [10, 0], [0, 0], [950, 0], [0, 1]]
    )
    assert age.encode(np.array([0, 2, 3])).shape == (6, 1)  # no training slide lacks it
    assert age.description == "age (number, missing for 2 slides)"


def test_classes_are_those_of_the_training_slides() -> None:
    (stage,) = read_covariates({"stage": np.array(["I", "II", "", "IV"])})
    np.testing.assert_array_equal(stage.encode(np.array([0, 1])), [[1, 0], [0, 1], [0, 0], [0, 0]])
    np.testing.assert_array_equal(stage.encode(np.array([1, 2])), [[0, 0], [0, 1], [1, 0], [0, 0]])


def test_no_other_slide_has_an_influence() -> None:
    rng, train = np.random.default_rng(0), np.arange(20)
    cells = {"age": rng.normal(size=30).astype(np.str_), "stage": rng.choice(["I", "II", ""], 30)}
    other = {name: np.concatenate([column[:20], column[::-1][:10]]) for name, column in cells.items()}
    one, two = (design_matrix(read_covariates(each), train)[:20] for each in (cells, other))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["", ""], "age is empty for all slides"),
        (["4", "4"], "age is '4' for all slides"),
        ([*map(str, range(30)), "n/a", "old"], "32 different values; some are not numbers .*: n/a, old"),
        (
            [*map(str, range(30)), "1e300"],
            "31 different values; some are not numbers from -1e30 to 1e30: 1e300",
        ),
    ],
)
def test_columns_that_cannot_be_used_are_refused(cells: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_covariates({"age": np.array(cells)})
