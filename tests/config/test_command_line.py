"""A command line written for a configuration is parsed back to it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from slpd_toolkit.cli import app as cli
from slpd_toolkit.config.command_line import command_words, wrapped
from slpd_toolkit.config.embed import EmbedConfig
from slpd_toolkit.config.heatmap import HeatmapConfig
from slpd_toolkit.config.mil_eval import MilEvalConfig
from slpd_toolkit.config.pretrain import PretrainConfig
from slpd_toolkit.config.recipe import build

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIGS: list[tuple[str, str, type, dict[str, Any], Sequence[str]]] = [
    (
        "embed",
        "embed",
        EmbedConfig,
        {"manifest": Path("a b.csv"), "out": Path("c"), "qc": False, "mpp": 0.25},
        ["manifest"],
    ),
    (
        "pretrain",
        "pretrain",
        PretrainConfig,
        {"cache": Path("c"), "out": Path("r"), "manifest": Path("m"), "where": ("a=b c", "d!=e"), "intra_weight": 0.0},
        ["cache"],
    ),
    (
        "mil-eval",
        "mil_eval",
        MilEvalConfig,
        {
            "cache": Path("c"),
            "manifest": Path("m.csv"),
            "model": ("mean-tokens", "x=a'b.csv"),
            "out": Path("e"),
            "aggregator": ("knn",),
            "lr": 1e-5,
        },
        ["cache"],
    ),
    (
        "heatmap",
        "heatmap",
        HeatmapConfig,
        {"scores": Path("e"), "out": Path("h"), "best": True, "crop": False},
        ["scores"],
    ),
]


@pytest.mark.parametrize(
    ("command", "module", "config_class", "values", "arguments"), CONFIGS, ids=lambda each: str(each)[:9]
)
def test_it_is_parsed_back(
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    module: str,
    config_class: type,
    values: dict[str, Any],
    arguments: list[str],
) -> None:
    config: Any = build(config_class, values)
    got: list[Any] = []

    def run(given: object) -> int:
        got.append(given)
        return 0

    monkeypatch.setattr(f"slpd_toolkit.commands.{module}.run", run)
    text = wrapped(command_words(command, config, arguments), width=40)
    assert shlex.split(text.replace("\\\n", " ")) == command_words(command, config, arguments)
    done = CliRunner().invoke(cli.app, shlex.split(text.replace("\\\n", " "))[1:])
    assert done.exit_code == 0, done.output
    assert got == [config]


@pytest.mark.parametrize("recipe", ["auto", "nsclc", "small-cohort", "robust"])
@pytest.mark.parametrize("changes", [{}, {"epochs": 100, "intra_weight": 0.0}, {"epochs": 40, "clusters": 3}])
def test_with_a_recipe_only_what_differs_from_it_is_written(
    monkeypatch: pytest.MonkeyPatch, recipe: str, changes: dict[str, Any]
) -> None:
    """Also values that are chosen by `auto` unless they are given, and that equal the default."""
    config = build(PretrainConfig, {"cache": Path("c"), "out": Path("r"), **changes}, Path(recipe))
    got: list[Any] = []

    def run(given: object) -> int:
        got.append(given)
        return 0

    monkeypatch.setattr("slpd_toolkit.commands.pretrain.run", run)
    words = command_words("pretrain", config, ["cache"], Path(recipe))
    assert CliRunner().invoke(cli.app, words[1:]).exit_code == 0
    assert got == [config]
    assert len(words) <= 7 + 2 * len(changes)
