"""Where the shared data lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.published import PublishedNumbers

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data: $SLPD_SHARED, or `shared` beside the repository."""
    folder = Path(os.environ.get("SLPD_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the shared data, and {folder} is no folder (set SLPD_SHARED)")
    return folder


@pytest.fixture(scope="session")
def published(shared: Path) -> PublishedNumbers:
    return PublishedNumbers.read(shared)
