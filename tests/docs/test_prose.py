"""Static checks of pages: commands parse; options, files and settings exist; figures are generated."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tomllib
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from docs._ext.reference import command_paths
from slpd_toolkit.cli import app as cli
from slpd_toolkit.config.mil_eval import AGGREGATORS
from slpd_toolkit.config.settings import settings_of
from slpd_toolkit.store.schema import TokenMeta
from slpd_toolkit.training import metrics_file as metrics
from slpd_toolkit.training.prototype_file import ARRAYS
from tests.cli.test_sections import LEAVES
from tests.conftest import REPOSITORY
from tests.docs.pages import ALL_BLOCKS, PAGES, PROSE_LANGUAGES, README, Block, read_blocks, slpd_commands

if TYPE_CHECKING:
    from pathlib import Path

NOT_RUN = 19
"""Blocks that a page shows and the tests do not run. Each says why; a new one must be counted here."""
OTHER_OPTIONS = {
    *("--no-deps", "--nproc-per-node", "--nnodes", "--rdzv-id", "--rdzv-backend", "--rdzv-endpoint"),
    *("--requeue", "--signal", "--job-name", "--array", "--gres", "--cpus-per-task", "--mem", "--time", "--nodes"),
    *("--ntasks-per-node", "--ntasks", "--exclude", "--head", "--port", "--address", "--node-ip-address", "--num-cpus"),
    *("--num-gpus", "--include-dashboard", "--block"),
}
"""Of pip, torchrun, sbatch, srun and ray."""
SHELL = [block for block in ALL_BLOCKS if block.language == "bash"]
PYTHON = [block for block in ALL_BLOCKS if block.language == "python"]
OPTIONS = {
    option
    for _, command in LEAVES
    for parameter in command.params
    for option in (*parameter.opts, *parameter.secondary_opts)
} | {"--help", "--version", "--install-completion", "--show-completion"}


def by_place(blocks: list[Block]) -> dict[str, object]:
    return {"argvalues": blocks, "ids": [block.where for block in blocks]}


def test_every_language_of_a_block_is_known() -> None:
    assert {block.language for block in ALL_BLOCKS} <= PROSE_LANGUAGES | {"bash", "python", "toml"}


def test_blocks_that_are_not_run_say_why_and_are_counted() -> None:
    skipped = [block.where for block in ALL_BLOCKS if block.not_run]
    assert len(skipped) == NOT_RUN, skipped


def test_shell_blocks_are_shell() -> None:
    for block in SHELL:
        done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block.where}: {done.stderr}"


@pytest.mark.parametrize(
    "block", [block for block in SHELL if list(slpd_commands(block))], ids=lambda block: block.where
)
def test_every_command_is_understood(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes exist, and options and values are allowed; the stage itself is not run."""
    for name in ("TASK_ID", "TASK_COUNT"):
        monkeypatch.setenv(f"SLURM_ARRAY_{name}", "1")
    monkeypatch.setattr(cli, "import_module", lambda _: SimpleNamespace(run=lambda *_: 0))
    for arguments in slpd_commands(block):
        done = CliRunner().invoke(cli.app, [os.path.expandvars(word) for word in arguments])
        assert done.exit_code == 0, f"{block.where}: slpd {' '.join(arguments)}\n{done.output}"


def test_python_blocks_are_python() -> None:
    for block in PYTHON:
        if not block.caption.endswith("registry.py"):  # which are lines of a file
            ast.parse(block.text, block.where)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_options_on_the_page_exist(page: Path) -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text(encoding="utf-8")))
    assert named - OPTIONS - OTHER_OPTIONS == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_files_on_the_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if not re.match(r"https?:|#", link)]
    assert [link for link in links if link and not (page.parent / link).exists()] == []
    paths = re.findall(r"\b(?:slpd_toolkit|stages|manifests|benchmarks|tests|docs)/[\w./-]*\w", text)
    made = {block.caption for block in read_blocks(page)}
    assert [path for path in paths if not (REPOSITORY / path).exists() and path not in made] == []


def test_every_command_is_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    assert [name for name, *_ in command_paths() if f"slpd {name.split()[0]}" not in text] == []


def test_every_extra_is_in_the_readme() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    text = README.read_text(encoding="utf-8")
    assert [name for name in extras if f"`{name}`" not in text] == []


def test_both_containers_are_made_of_the_same_two_commands() -> None:
    docker, apptainer = (
        re.findall(r"pip install .*?(?=;|$)", (REPOSITORY / name).read_text(encoding="utf-8"), re.MULTILINE)
        for name in ("Dockerfile", "Apptainer.def")
    )
    assert len(docker) == 2
    assert docker == apptainer


def test_the_map_names_all_that_exists_and_nothing_else() -> None:
    (tree,) = [block for block in read_blocks(REPOSITORY / "CONTRIBUTING.md") if block.text.startswith("slpd_toolkit/")]
    inside, beside = tree.text.split("\n\n")
    mapped: dict[str, str] = {}
    for line in inside.splitlines()[1:]:
        name, about = line.split(maxsplit=1)
        room = f"mil/{name.rstrip('/')}" if line.startswith("    ") else name.rstrip("/")
        assert room not in mapped
        mapped[room] = about
    package = REPOSITORY / "slpd_toolkit"
    rooms = {path.name for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    inner = {f"mil/{path.name}" for path in (package / "mil").iterdir() if (path / "__init__.py").exists()}
    assert mapped.keys() == (rooms | inner) - {"__init__.py", "__main__.py"}
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    folders = {line.split("/")[0] for line in tracked.splitlines() if "/" in line and not line.startswith(".")}
    assert {line.split()[0].rstrip("/") for line in beside.splitlines()} == folders - {"slpd_toolkit"}


def test_the_tables_of_file_formats_are_complete() -> None:
    named = set(re.findall(r"`(\w+)`", (REPOSITORY / "docs/file-formats.md").read_text(encoding="utf-8")))
    assert TokenMeta.__dataclass_fields__.keys() - named == set()
    assert set(metrics.columns()) - named == set()
    assert set(ARRAYS) - named == set()


def test_every_aggregator_is_explained() -> None:
    text = (REPOSITORY / "docs/evaluation.md").read_text(encoding="utf-8")
    assert [name for name in AGGREGATORS.names() if f"`{name}`" not in text] == []


@pytest.mark.slow
def test_settings_named_on_the_page_of_the_method_exist() -> None:
    text = (REPOSITORY / "docs/method.md").read_text(encoding="utf-8")
    known = {name for config in cli.CONFIGS.values() for name in settings_of(config)}
    assigned = re.findall(r"`(\w+) = \"(\w+)\"`", text)
    assert {name for name, _ in assigned} <= known
    for name in re.findall(r"`([a-z]+(?:_[a-z]+)+)`", text):
        assert name in known, name
    for name, value in re.findall(r"`(\w+)` = ([\d ]*\d(?:\.\d+)?)", text):
        defaults = {known[name].default for known in map(settings_of, cli.CONFIGS.values()) if name in known}
        assert float(value.replace(" ", "")) in defaults, (name, value, defaults)


HABITS = re.compile(
    r"\b(for\s+ever|anew|at\s+hand|nobody|goes\s+on|as\s+far\s+as|is\s+told|is\s+said|whilst|amongst|thereof|beside"
    r"|in\s+place\s+of|of\s+(?:its|their|his|her)\s+own|label\s+pictures?)\b"
    r"|\"\"\"(?:Give|Say|Tell|Turn)s?\b"
)
"""Archaic or literal constructions, for each of which there is a plain one: "next to", "instead of", "Return"."""


def test_prose_is_plain_english() -> None:
    package = REPOSITORY / "slpd_toolkit"
    paths = (*PAGES, *package.rglob("*.py"), *package.glob("report/templates/*.html"))
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    assert [(path.name, hit.group()) for path, text in texts.items() for hit in HABITS.finditer(text)] == []
