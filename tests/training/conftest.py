from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.token_factory import write_cache
from tests.training.runs import LENGTHS

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("cohort") / "cache", LENGTHS)
