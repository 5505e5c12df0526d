"""Where the shared data lies, and what every test runs under."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.published import PublishedNumbers

# Heavy imports are inside the fixtures: the process that only hands out the tests imports this file too.

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Test tensors are tiny: waking a second thread costs more than it saves, on a busy machine far more."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_the_disk() -> Iterator[None]:
    """Writers sync each file to disk, milliseconds every time: what that protects from is a power cut, not a test."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real slides and their ground truth: $SLPD_DATA, or `shared/data` beside the repository."""
    folder = Path(os.environ.get("SLPD_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs real slides, and {folder} is no folder (set SLPD_DATA)")
    return folder


@pytest.fixture(scope="session")
def published() -> PublishedNumbers:
    from tests.published import PublishedNumbers

    return PublishedNumbers.read()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The usual cohort of tokens; not to be changed."""
    from tests.token_factory import LENGTHS, write_cache

    return write_cache(tmp_path_factory.mktemp("cohort") / "cache", LENGTHS)


@pytest.fixture(scope="session")
def gappy_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The usual cohort with a third of its patches missing, in all slides but the first; not to be changed."""
    from tests.token_factory import LENGTHS, write_cache

    return write_cache(tmp_path_factory.mktemp("gappy") / "cache", LENGTHS, gaps=1 / 3)


@pytest.fixture
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing curves takes longer than a tiny run does."""
    monkeypatch.setattr("slpd_toolkit.commands.pretrain.draw_curves", lambda path, _rows: path.write_text("<svg/>"))
