"""`import slpd_toolkit as slpd`: its names, its import time, and its errors."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

import slpd_toolkit as slpd
from slpd_toolkit.api import calls, commands, write_settings
from slpd_toolkit.api.calls import resolve
from slpd_toolkit.cli import app as cli
from slpd_toolkit.config.embed import EmbedConfig
from slpd_toolkit.config.mil_eval import MilEvalConfig
from slpd_toolkit.config.settings import settings_of
from slpd_toolkit.core import console
from slpd_toolkit.core.errors import CacheError, UsageError
from tests.conftest import REPOSITORY
from tests.token_factory import write_cache

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = ("torch", "h5py", "pandas", "numpy", "sklearn", "matplotlib", "cv2", "openslide")


def test_importing_it_imports_nothing_heavy() -> None:
    code = f"import sys, slpd_toolkit as slpd; dir(slpd); print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_all_names_exist_and_are_those_of_the_page() -> None:
    assert sorted([*slpd._MODULE_OF, "__version__"]) == sorted(slpd.__all__) == dir(slpd)
    for name, module in slpd._MODULE_OF.items():
        assert getattr(slpd, name) is getattr(import_module(f"slpd_toolkit.{module}"), name)
    page = (REPOSITORY / "docs/python.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\.\. auto(?:function|class):: slpd_toolkit\.(\w+)\b(?!\.)", page, re.MULTILINE)
    assert sorted([*documented, "__version__"]) == sorted(slpd.__all__)
    with pytest.raises(AttributeError, match="no attribute 'embedd'"):
        slpd.embedd  # noqa: B018


def test_every_command_is_a_function_with_its_settings() -> None:
    assert calls.ARGUMENTS.keys() == set(cli.CONFIGS.values())
    functions = [function for function in vars(commands).values() if hasattr(function, "__signature__")]
    assert len(functions) == len(calls.ARGUMENTS)
    for config_class, function in zip(calls.ARGUMENTS, functions, strict=True):
        arguments, parameters = calls.ARGUMENTS[config_class], inspect.signature(function).parameters
        first = [name for name, each in parameters.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
        assert tuple(first) == arguments == tuple(parameters)[: len(arguments)]
        assert parameters.keys() == {"recipe", *settings_of(config_class)}
        code = inspect.unwrap(function).__code__
        assert code.co_varnames[: code.co_argcount] == arguments
        assert f"    {first[0]}: " in function.__doc__.partition(calls.SETTINGS)[2]


def test_the_types_of_settings_are_those_of_the_configurations() -> None:
    written = write_settings.FILE.read_text(encoding="utf-8")
    assert written == write_settings.text(), "run: python -m slpd_toolkit.api.write_settings"


def test_settings_are_converted_as_those_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('mpp = 1\nencoder = "handcrafted"\n')
    config = resolve(
        EmbedConfig,
        {
            "manifest": "a.csv",
            "out": tmp_path,
            "recipe": tmp_path / "recipe.toml",
            "encoder": "random",
            "weights": None,
        },
    )
    assert (str(config.manifest), config.out, config.mpp, config.encoder) == ("a.csv", tmp_path, 1.0, ("random",))
    assert isinstance(config.mpp, float)
    store = slpd.TokenStore.open(write_cache(tmp_path / "cache", (2,)))
    given: dict[str, Any] = {"cache": store, "manifest": "a.csv", "out": "eval", "aggregator": "knn"}
    evaluation = resolve(MilEvalConfig, given | {"model": [slpd.Run(tmp_path / "run"), "mean-tokens"]})
    assert evaluation.cache == tmp_path / "cache"
    assert evaluation.aggregator == ("knn",)
    assert evaluation.model == (str(tmp_path / "run"), "mean-tokens")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"enkoder": "x"}, r"unknown setting `enkoder` \(did you mean `encoder`\?\)"),
        ({"mpp": "0.5"}, r"`mpp` = '0.5': allowed: float"),
        ({"qc": 1}, r"`qc` = 1: allowed: bool"),
        ({"precision": "fp8"}, r"`precision` = 'fp8': allowed: auto, bf16"),
        ({"region_px": 100}, r"--region-px: got 100"),
        ({"out": None}, r"Missing: out"),
        ({"recipe": "absent.toml"}, r"absent.toml: no such file"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        slpd.embed(tmp_path / "absent.csv", **{"out": tmp_path / "out", **settings})
    assert not (tmp_path / "out").exists()


def test_slides_that_fail_are_in_the_result(tmp_path: Path) -> None:
    write_cache(tmp_path / "cache", (2, 1))
    (tmp_path / "cache" / "slide009.h5").write_bytes(b"broken")
    found = slpd.inspect(tmp_path / "cache")
    assert found.slides["regions"].tolist() == [2, 1]
    assert found.failures["slide_id"].tolist() == ["slide009"]
    assert "cannot be read" in found.failures["error"][0]
    for path in (tmp_path / "cache").glob("slide00[01].h5"):
        path.unlink()
    assert slpd.inspect(tmp_path / "cache").slides.empty
    with pytest.raises(CacheError, match="cannot be read"):
        slpd.TokenStore.open(tmp_path / "cache")


@pytest.mark.parametrize(("code", "raised"), [(130, KeyboardInterrupt), (143, SystemExit)])
def test_a_command_that_was_stopped_does_not_look_finished(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, raised: type[BaseException]
) -> None:
    monkeypatch.setattr("slpd_toolkit.commands.pretrain.run", lambda _config: code)
    with pytest.raises(raised):
        slpd.pretrain(tmp_path, out=tmp_path / "run")


def test_result_tables_are_not_printed_and_quiet_means_warnings_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console.VERBOSITY, "quiet", False)
    with console.without_results():
        console.table("title", [{"a": 1}])
        console.facts("title", {"a": 1})
        console.note("noted")
    slpd.set_verbosity("quiet")
    console.note("not shown")
    console.warn("warned")
    assert capsys.readouterr() == ("", "noted\nwarning: warned\n")
    with pytest.raises(UsageError, match="allowed: normal, quiet"):
        slpd.set_verbosity("loud")  # type: ignore[arg-type]
    assert slpd.set_verbosity("normal") is None  # type: ignore[func-returns-value]


def test_folders_without_results_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not contain a run of `slpd pretrain`: it has no metrics\.csv"):
        slpd.Run.open(tmp_path)
    with pytest.raises(UsageError, match=r"does not contain an evaluation"):
        slpd.EvaluationResult.open(tmp_path)
