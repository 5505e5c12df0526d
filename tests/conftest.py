"""Location of the shared data, and fixtures of all tests."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.published import PublishedNumbers

# Heavy imports are inside the fixtures: the process that only hands out the tests imports this file too.

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_collection_finish() -> None:
    """Collect garbage rarely: the default traverses all imported modules so often that tests take a fifth longer."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call() -> None:
    """Hide the name of the test, which pytest sets: idle processes are reused while the environment is the same."""
    os.environ.pop("PYTEST_CURRENT_TEST", None)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Use one thread: test tensors are so small that a second one costs more time than it saves."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_the_disk() -> Iterator[None]:
    """Skip syncing files to disk, which takes milliseconds per file and only protects against power loss."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of real slides with ground truth: $SLPD_DATA, or `shared/data` next to the repository."""
    folder = Path(os.environ.get("SLPD_DATA", REPOSITORY.parent / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"needs real slides, and {folder} is no folder (set SLPD_DATA)")
    return folder


@pytest.fixture(scope="session")
def published() -> PublishedNumbers:
    from tests.published import PublishedNumbers

    return PublishedNumbers.read()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token cache shared by tests; must not be modified."""
    from tests.token_factory import LENGTHS, write_cache

    return write_cache(tmp_path_factory.mktemp("cohort") / "cache", LENGTHS)


@pytest.fixture(scope="session")
def gappy_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shared cache with a third of the patches missing, except in the first slide; must not be modified."""
    from tests.token_factory import LENGTHS, write_cache

    return write_cache(tmp_path_factory.mktemp("gappy") / "cache", LENGTHS, gaps=1 / 3)


@pytest.fixture
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip drawing curves, which takes longer than a tiny run."""
    monkeypatch.setattr("slpd_toolkit.commands.pretrain.draw_curves", lambda path, _rows: path.write_text("<svg/>"))
