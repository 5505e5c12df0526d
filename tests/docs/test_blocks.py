"""Runs every code block of every page, page by page, in a folder with the files that the page assumes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.conftest import REPOSITORY
from tests.docs.pages import PAGES, Block, read_blocks
from tests.docs.workplace import environment, furnish

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.long]

_WITH_CODE = [
    page
    for page in PAGES
    if any(block.language in {"bash", "python"} and not block.not_run for block in read_blocks(page))
]
_AFTER_TUTORIAL = ["tutorial.md", "file-formats.md", "evaluation.md", "slide-vectors.md"]
"""Pages whose blocks look at what the tutorial's made, in this order; every other page stands for itself."""
_STORIES = [
    [page for page in _WITH_CODE if page.name in _AFTER_TUTORIAL],
    *([page] for page in _WITH_CODE if page.name not in _AFTER_TUTORIAL),
]


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("furnished")
    furnish(folder)
    return folder


@pytest.mark.parametrize("story", _STORIES, ids=lambda story: "-".join(page.stem for page in story))
def test_every_block_runs(story: list[Path], furnished: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    shutil.copytree(furnished, place)
    package = REPOSITORY
    blocks = [block for page in sorted(story, key=_rank) for block in read_blocks(page) if not block.not_run]
    if any(block.caption.startswith("slpd_toolkit/") for block in blocks):
        package = tmp_path / "package"
        for part in ("slpd_toolkit", "stages", "manifests"):
            shutil.copytree(REPOSITORY / part, package / part)
    for block in blocks:
        _do(block, place, package)


def _rank(page: Path) -> int:
    return _AFTER_TUTORIAL.index(page.name) if page.name in _AFTER_TUTORIAL else 0


def _do(block: Block, place: Path, package: Path) -> None:
    if block.caption.startswith("slpd_toolkit/"):
        (package / block.caption).write_text(block.text + "\n", encoding="utf-8")
    elif block.caption:
        if block.caption != "cohort.csv":  # of which the page shows the first rows
            (place / block.caption).write_text(block.text + "\n", encoding="utf-8")
    elif block.language == "bash":
        _run(block, ["bash", "-euo", "pipefail", "-c", block.text], place, package)
    elif block.language == "python":
        _run(block, [sys.executable, "-c", block.text], place, package)


def _run(block: Block, command: list[str], place: Path, package: Path) -> None:
    done = subprocess.run(
        command, cwd=place, env=environment(place, package), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{block.where}\n{block.text}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
