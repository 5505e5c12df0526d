"""Where the TCGA label tables lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def tcga_labels() -> Path:
    """TCGA label tables and splits in CLAM's layout, in $SLPD_SHARED or in `shared` beside the repository."""
    folder = Path(os.environ.get("SLPD_SHARED", REPOSITORY.parent / "shared")) / "data" / "labels"
    if not folder.is_dir():
        pytest.skip(f"needs TCGA label tables, and {folder} is no folder (set SLPD_SHARED)")
    return folder
