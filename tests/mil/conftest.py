"""Location of the TCGA label tables; one thread per test, because small computations are slower with several."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def tcga_labels() -> Path:
    """TCGA label tables and splits in CLAM's layout, in $SLPD_DATA or in `shared/data` next to the repository."""
    folder = Path(os.environ.get("SLPD_DATA", REPOSITORY.parent / "shared" / "data")).resolve() / "labels"
    if not folder.is_dir():
        pytest.skip(f"needs TCGA label tables, and {folder} is no folder (set SLPD_DATA)")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _single_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)
