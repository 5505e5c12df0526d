"""Files that hold whole regions of m x m patches, and where those regions lie."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.foreign.rows import check_features
from slpd_toolkit.foreign.tensors import read_tensor

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

META = ".meta.json"
"""Ending of the file that slide2vec writes beside the features of a slide."""
COORDINATES = ".coordinates.npz"
"""Ending of the file with x and y of each region, level-0 px."""


def read_grids(path: Path) -> tuple[npt.NDArray[np.floating], int]:
    """Read regions of m x m patches, row-major: (R, m * m, D) features, and m.

    Raises:
        SlideError: The file is unreadable or has another shape.
    """
    features = read_tensor(path)
    grid = math.isqrt(features.shape[1]) if features.ndim == 3 else 0
    if grid < 2 or grid * grid != features.shape[1]:
        raise SlideError(
            f"{path}: features are {features.shape}, expected (R, m * m, D): regions of m x m patches.",
            hint="Features of single tiles or of whole slides are other folders; regions are hierarchical_embeddings/.",
        )
    check_features((features.shape[0] * features.shape[1], features.shape[2]), features.dtype, path)
    return features, grid
