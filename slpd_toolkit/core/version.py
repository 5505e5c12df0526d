"""Package version, recorded in output files and reports."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

__version__ = "0.2.0"


def is_version(found: object, known: Collection[int]) -> bool:
    """Return whether the version stored in a file is a known one; True and 1.0, which equal 1, are not versions."""
    return type(found) is not bool and isinstance(found, Integral) and int(found) in known
