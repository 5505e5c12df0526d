"""Summary of a metric's values over test folds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from slpd_toolkit.mil.arrays import FloatArray


def mean_and_sd(values: FloatArray) -> tuple[float, float]:
    """Mean and sample standard deviation of the values that are not NaN; NaN where there are too few."""
    defined = values[~np.isnan(values)]
    mean = float(defined.mean()) if len(defined) else float("nan")
    sd = float(defined.std(ddof=1)) if len(defined) > 1 else float("nan")
    return mean, sd
