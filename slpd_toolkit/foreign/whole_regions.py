"""Files that contain whole regions of m x m patches, and the positions of these regions."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.foreign.rows import check_features
from slpd_toolkit.foreign.tensors import read_tensor

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

META = ".meta.json"
"""Ending of the file that slide2vec writes next to the features of a slide."""
COORDINATES = ".coordinates.npz"
"""Ending of the file with x and y of each region, level-0 px."""
COORDS_FOLDER = "coordinates"
"""Folder of these files next to HIPT's features."""
LOCATED = re.compile(r"(?P<slide>.+)_(?P<x>\d+)_(?P<y>\d+)")
"""Name of a file with one region: <slide>_<x>_<y>, level-0 px."""
REGION_EMBEDDING = 192
"""Width of the embeddings of HIPT's region ViT; the tokens of its patch ViT have 384."""


def is_square(count: int) -> bool:
    """Return whether a number of patches fills a square grid of at least 2 x 2."""
    return count > 1 and math.isqrt(count) ** 2 == count


def read_grids(path: Path) -> tuple[npt.NDArray[np.floating], int]:
    """Read regions of m x m patches, row-major: (R, m * m, D) features, and m.

    Raises:
        SlideError: The file is unreadable or has another shape.
    """
    features = read_tensor(path)
    if features.ndim != 3 or not is_square(features.shape[1]):
        raise SlideError(
            f"{path}: features are {features.shape}, expected (R, m * m, D): regions of m x m patches.",
            hint="Regions are in hierarchical_embeddings/; other folders contain features of single tiles or whole "
            "slides.",
        )
    check_features((features.shape[0] * features.shape[1], features.shape[2]), features.dtype, path)
    return features, math.isqrt(features.shape[1])
