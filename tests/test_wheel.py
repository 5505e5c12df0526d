"""The wheel contains all required files and nothing else, and works without a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from typing import TYPE_CHECKING

import pytest

from slpd_toolkit import __version__
from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

PACKAGE, SHIPPED = "slpd_toolkit", ("stages", "manifests")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")
    pip = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(folder), str(REPOSITORY)]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel, and with the dependencies of this environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    install = ("install", "--no-deps", "--no-index", "--quiet", "--disable-pip-version-check", str(wheel))
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), *install]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")  # whose own .pth files are not read
    return folder


def run(environment: Path, place: Path, *command: str) -> subprocess.CompletedProcess[str]:
    away = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "SLPD_DATA"}}
    return subprocess.run(
        [str(environment / "bin" / command[0]), *command[1:]],
        cwd=place,
        env=away | {"OMP_NUM_THREADS": "1", "HOME": str(place)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_it_holds_the_package_and_what_it_ships_and_nothing_else(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", PACKAGE, *SHIPPED],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    wanted = {name if name.startswith(PACKAGE) else f"{PACKAGE}/{name}" for name in tracked}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    assert held == wanted
    assert {f"{PACKAGE}/py.typed", f"{PACKAGE}/stages/embed/try.toml", f"{PACKAGE}/manifests/README.md"} <= held
    assert len(licences) == 1


def test_the_command_works_away_from_the_checkout(environment: Path, tmp_path: Path) -> None:
    for start in (("slpd",), ("python", "-m", PACKAGE)):
        version = run(environment, tmp_path, *start, "--version")
        assert version.stdout == f"slpd_toolkit {__version__}\n", version.stderr
    where = run(environment, tmp_path, "python", "-c", f"import {PACKAGE}; print({PACKAGE}.__file__)")
    assert where.stdout.startswith(str(environment))
    help_text = run(environment, tmp_path, "slpd", "pretrain", "--help").stdout
    assert "--clusters" in help_text
    assert "Number of prototypes per slide (K)." in help_text


@pytest.mark.parametrize("recipe", ["stages/pretrain/nsclc.toml", "pretrain/nsclc.toml"])
def test_a_shipped_recipe_is_found_by_its_name(environment: Path, tmp_path: Path, recipe: str) -> None:
    program = (
        "from pathlib import Path; from slpd_toolkit.config import recipe\n"
        "from slpd_toolkit.config.pretrain import PretrainConfig\n"
        f"print(recipe.read_recipe(PretrainConfig, Path('{recipe}'))['min_regions'])"
    )
    assert run(environment, tmp_path, "python", "-c", program).stdout == "32\n"
    absent = run(environment, tmp_path, "slpd", "pretrain", "cache", "--out", "run", "--recipe", "pretrain/lung.toml")
    assert absent.returncode == 2
    assert "stages/pretrain/nsclc.toml" in absent.stderr


def test_templates_are_found(environment: Path, tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from slpd_toolkit.report.atlas import write_atlas\n"
        "write_atlas(Path('a.html'), 'r', [], 0, 1)"
    )
    done = run(environment, tmp_path, "python", "-c", program)
    assert done.returncode == 0, done.stderr
    assert "<html" in (tmp_path / "a.html").read_text()


@pytest.mark.long
def test_the_demo_goes_all_the_way(environment: Path, tmp_path: Path) -> None:
    done = run(environment, tmp_path, "slpd", "demo", "--tiny", "--out", "demo")
    assert done.returncode == 0, done.stderr
    for made in ("eval/report.html", "atlas/index.html", "cache/qc/index.html", "slpd/region_vit.pt"):
        assert (tmp_path / "demo" / made).is_file(), made


@pytest.mark.parametrize(
    ("shell", "said"), [("bash", "complete -o default"), ("zsh", "#compdef slpd"), ("fish", "complete ")]
)
def test_there_is_a_completion_script_for_each_shell(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: str, said: str
) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # else it is the shell that runs the tests
    shown = run(environment, tmp_path, "slpd", "--show-completion", shell)
    assert said in shown.stdout, shown.stderr
    assert "_SLPD_COMPLETE" in shown.stdout


def test_bash_completes_commands_and_options(environment: Path, tmp_path: Path) -> None:
    """As for a user: after installation, bash calls the function with the words typed so far."""
    script = (
        "slpd --install-completion >/dev/null\n"
        "source .bashrc\n"
        'COMP_WORDS=(slpd pretrain --clus); COMP_CWORD=2; _slpd_completion slpd; echo "${COMPREPLY[@]}"\n'
        'COMP_WORDS=(slpd pretr); COMP_CWORD=1; _slpd_completion slpd; echo "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={"PATH": f"{environment / 'bin'}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    options, command = done.stdout.splitlines()
    assert set(options.split()) == {"--clusters", "--cluster-features"}
    assert set(command.split()) == {"pretrain", "pretrain-slides"}
