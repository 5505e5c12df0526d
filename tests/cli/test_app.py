from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import h5py
import pytest
from typer.testing import CliRunner

from slpd_toolkit import __version__
from slpd_toolkit.cli import app as cli
from slpd_toolkit.commands import embed
from slpd_toolkit.core.errors import CacheError, SlideError, UsageError, WeightsError
from slpd_toolkit.core.folder_lock import is_lock
from tests.cohorts import SMALL, as_flags, mean_colour_encoder, write_cohort, write_manifest, write_token_file
from tests.conftest import REPOSITORY
from tests.evaluations import two_classes

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

    from slpd_toolkit.config.embed import EmbedConfig


def slpd(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def python(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[EmbedConfig]:
    """Capture the configurations that `slpd embed` would run with."""
    seen: list[EmbedConfig] = []

    def run(config: EmbedConfig) -> int:
        seen.append(config)
        return 0

    monkeypatch.setattr(embed, "run", run)
    return seen


def test_flags_reach_the_stage_with_their_types(configs: list[EmbedConfig], tmp_path: Path) -> None:
    done = slpd(
        "embed",
        "m.csv",
        "--out",
        tmp_path,
        "--mpp",
        "0.25",
        "--patch-px",
        128,
        "--no-qc",
        "--overwrite",
        "--precision",
        "bf16",
    )
    assert done.exit_code == 0, done.output
    (config,) = configs
    assert (str(config.manifest), config.out, config.mpp, config.patch_px) == ("m.csv", tmp_path, 0.25, 128)
    assert (config.qc, config.overwrite, config.precision, config.weights) == (False, True, "bf16", None)


def test_flag_over_recipe_over_default(configs: list[EmbedConfig], tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('out = "from-recipe"\nmpp = 0.75\nqc = false\nseed = 5\n')
    assert slpd("embed", "m.csv", "--recipe", recipe, "--mpp", 0.5, "--qc").exit_code == 0
    (config,) = configs
    assert (str(config.out), config.mpp, config.qc, config.seed, config.selection.max_upsample) == (
        "from-recipe",
        0.5,
        True,
        5,
        1.6,
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing: manifest, out."),
        (["m.csv"], "Missing: out."),
        (["m.csv", "--out", "o", "--region-px", "1000", "--patch-px", "256"], "Use 1024."),
        (["m.csv", "--out", "o", "--precision", "fp7"], "fp7"),
        (["m.csv", "--out", "o", "--mpp", "half"], "--mpp"),
        (["m.csv", "--out", "o", "--no-such-flag"], "--no-such-flag"),
        (["m.csv", "--out", "o", "--recipe", "none.toml"], "stages/embed/hipt.toml"),
        (["m.csv", "--out", "o", "--shard", "3/2"], "3/8"),
    ],
)
def test_a_wrong_command_is_told_and_is_exit_code_2(
    configs: list[EmbedConfig], arguments: list[str], said: str
) -> None:
    done = slpd("embed", *arguments)
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output
    assert configs == []


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UsageError("wrong flag.", hint="use another."), 2, "error: wrong flag.\n  next: use another.\n"),
        (WeightsError("wrong weights."), 2, "error: wrong weights.\n"),
        (SlideError("wrong slide."), 1, "error: wrong slide.\n"),
        (CacheError("wrong cache."), 1, "error: wrong cache.\n"),
        (
            OSError(28, "No space left on device", "x"),
            1,
            "error: [Errno 28] No space left on device: 'x'.\n  next: Check",
        ),
        (KeyboardInterrupt(), 130, "Interrupted; completed work is kept."),
    ],
)
def test_errors_become_messages_and_exit_codes(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def fail(_: Any) -> int:
        raise error

    monkeypatch.setattr(embed, "run", fail)
    done = slpd("embed", "m.csv", "--out", "o")
    assert done.exit_code == code
    assert done.output.startswith(said)
    assert "Traceback" not in done.output


def test_the_stage_s_result_is_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "run", lambda _: 1)
    assert slpd("embed", "m.csv", "--out", "o").exit_code == 1


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(embed, "run", fail)
    assert isinstance(slpd("embed", "m.csv", "--out", "o").exception, ZeroDivisionError)


@pytest.mark.slow
def test_embed_and_inspect_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "make_encoder", mean_colour_encoder)
    out = tmp_path / "cache[/x]"
    done = slpd("embed", write_cohort(tmp_path, 2), "--out", out, *as_flags(**SMALL))
    assert done.exit_code == 0, done.output
    assert "slides" in done.output
    assert "cache[/x]" in done.output.replace("\n", "")
    seen = slpd("inspect", out)
    assert seen.exit_code == 0, seen.output
    assert "random, input 64 px" in seen.output
    assert slpd("inspect", out / "s0.h5").exit_code == 0
    assert slpd("inspect", tmp_path / "absent").exit_code == 2
    (out / "s1.h5").write_bytes(b"broken")
    assert slpd("inspect", out).exit_code == 1


@pytest.mark.slow
def test_all_rows_bad_is_exit_code_2_and_some_is_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "make_encoder", mean_colour_encoder)
    write_cohort(tmp_path, 1)
    bad = {"slide_id": "bad", "slide_path": "absent.svs"}
    manifest = write_manifest(tmp_path / "m.csv", [bad])
    done = slpd("embed", manifest, "--out", tmp_path / "cache", *as_flags(**SMALL))
    assert done.exit_code == 2
    assert "row 2 (bad): no such file" in done.output
    write_manifest(manifest, [bad, {"slide_id": "s0", "slide_path": "s0.tif"}])
    assert slpd("embed", manifest, "--out", tmp_path / "cache", *as_flags(**SMALL)).exit_code == 1


def test_version_and_help(tmp_path: Path) -> None:
    version = slpd("--version")
    assert (version.exit_code, version.output) == (0, f"slpd_toolkit {__version__}\n")
    for arguments in (["--help"], ["-h"], ["embed", "--help"], ["inspect", "-h"]):
        shown = slpd(*arguments)
        assert shown.exit_code == 0
        assert "Usage" in shown.output
    help_text = " ".join(slpd("embed", "--help").output.split())
    for name in SMALL:
        assert f"--{name.replace('_', '-')}" in help_text
    assert "Default: 1.6." in help_text


def test_help_and_wrong_flags_need_neither_torch_nor_anything_heavy() -> None:
    program = (
        "import sys; from slpd_toolkit.cli.app import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as left: code = left.code\n"
        "heavy = {'torch', 'numpy', 'pandas', 'openslide', 'h5py', 'cv2', 'faiss', 'sklearn'} & set(sys.modules)\n"
        "print('loaded', sorted(heavy), code)"
    )
    for arguments, code in ((["embed", "--help"], 0), (["embed", "m.csv", "--out", "o", "--mpp=-1"], 2)):
        done = python("-c", program, *arguments)
        assert done.stdout.splitlines()[-1] == f"loaded [] {code}", done.stderr


@pytest.mark.slow
def test_the_module_is_the_command() -> None:
    assert python("-m", "slpd_toolkit", "--version").stdout == f"slpd_toolkit {__version__}\n"


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    write_token_file(tmp_path / "s0.h5")
    script = f"{sys.executable} -m slpd_toolkit inspect {tmp_path} | head -c 1"
    done = subprocess.run(
        ["bash", "-c", script],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.slow
def test_mil_eval_from_the_command_line_writes_every_file(tmp_path: Path) -> None:
    planted = two_classes(tmp_path)
    flags = as_flags(manifest=planted.manifest, out=tmp_path / "out", folds=3, steps=20, jobs=1)
    several = ["--model", "mean-tokens", "--model", "blank=untrained", "--aggregator", "knn", "--aggregator", "abmil"]
    done = slpd("mil-eval", planted.cache, *flags, *several)
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "first - second" in done.stdout
    assert "clean: no patient is in two parts of a split (15 splits)." in done.stdout  # 3 folds, 5 repeats
    names = {path.name for path in (tmp_path / "out").iterdir() if not is_lock(path)}
    files = {"report.html", "metrics.json", "predictions.csv", "folds.csv", "scores.h5", "recipe.toml", "figures"}
    assert names == files | {"region_embeddings", "model"}
    assert "blank" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    with h5py.File(tmp_path / "out" / "scores.h5") as file:
        assert len(file) == 2


@pytest.mark.slow
def test_a_wrong_flag_of_mil_eval_is_told_without_torch() -> None:
    program = (
        "import sys; from slpd_toolkit.cli.app import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as left: print('torch' in sys.modules, left.code)"
    )
    arguments = ["mil-eval", "c", "--manifest", "m.csv", "--out", "o", "--model", "untrained", "--aggregator", "abmill"]
    done = python("-c", program, *arguments)
    assert done.stdout == "False 2\n"
    assert "allowed: abmil, clam-sb, ds-mil, hipt, knn" in done.stderr
