"""The pages build without a warning, and can be read without a network."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from docs._ext.reference import command_paths
from slpd_toolkit.cli import app as cli
from slpd_toolkit.config import recipe as recipes
from slpd_toolkit.config.settings import settings_of
from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages of the documentation: those of `make docs`, unless a source is newer."""
    made = REPOSITORY / "docs" / "_build" / "html"
    sources = [path for room in ("docs", "slpd_toolkit", "stages") for path in (REPOSITORY / room).rglob("*.*")]
    newest = max(path.stat().st_mtime for path in sources if not {"_build", "__pycache__"} & set(path.parts))
    if (made / "objects.inv").exists() and (made / "objects.inv").stat().st_mtime > newest:
        return made
    folder = tmp_path_factory.mktemp("site")
    build = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-n",
        "-q",
        "-b",
        "html",
        "-d",
        str(folder / "cache"),
    ]
    done = subprocess.run(
        [*build, str(REPOSITORY / "docs"), str(folder / "html")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.mark.long
def test_nothing_is_fetched_by_a_reader(site: Path) -> None:
    pages = list(site.glob("*.html"))
    assert len(pages) > 10
    for page in pages:
        loaded = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"(https?:[^\"]+)\"", page.read_text("utf-8")
        )
        assert loaded == [], page
    for style in site.glob("_static/**/*.css"):
        assert re.findall(r"(?:@import|url\()\s*[\"']?https?:", style.read_text("utf-8")) == [], style


def test_references_hold_every_command_setting_and_recipe(site: Path) -> None:
    commands, settings, shipped = (
        (site / f"{name}.html").read_text("utf-8") for name in ("commands", "settings", "recipes")
    )
    assert [path for path in command_paths() if f"Usage: slpd {' '.join(path)} " not in commands] == []
    keys = {name for config in cli.CONFIGS.values() for name in settings_of(config)}
    assert [name for name in keys if f">{name}</span>" not in settings] == []
    folder = recipes.shipped_folder("stages")
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.toml")]
    assert [name for name in names if f"stages/{name}" not in shipped] == []


def test_equations_are_mathml(site: Path) -> None:
    text = (site / "method.html").read_text("utf-8")
    assert text.count("<math ") > 20
