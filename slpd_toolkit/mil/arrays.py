"""Names for the array types that the evaluation passes around, and how it lists and sorts names."""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
StrArray = NDArray[np.str_]

_MESSAGE_NAMES = 8


def listed(names: Iterable[str]) -> str:
    """Join names for a message; beyond eight it says how many more there are."""
    names = list(names)
    more = len(names) - _MESSAGE_NAMES
    return ", ".join(names[:_MESSAGE_NAMES]) + (f" and {more} more" if more > 0 else "")


def natural_key(name: str) -> tuple[bool, float, str]:
    """Sort key: numbers by their value, then everything else by its letters."""
    try:
        value = float(name)
    except ValueError:
        value = math.nan
    return (False, value, name) if math.isfinite(value) else (True, 0.0, name)
