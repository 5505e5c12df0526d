"""Scores that `slpd heatmap` draws: one table of scores.h5, or a CSV, for the requested slides."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import listed
from slpd_toolkit.report.score_csv import read_score_csv
from slpd_toolkit.report.scores import FILENAME, read_scores

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from slpd_toolkit.config.heatmap import HeatmapConfig
    from slpd_toolkit.report.scores import ScoreTable, SlideScores


_RESULTS = "metrics.json"


@dataclass(frozen=True)
class ChosenScores:
    """Model and aggregator, and for each slide a function that reads its squares."""

    model: str
    aggregator: str
    slides: Mapping[str, Callable[[], SlideScores]]


def choose_scores(config: HeatmapConfig) -> ChosenScores:
    """Find the scores selected by --scores, --model, --aggregator, --slide and --limit.

    Raises:
        UsageError: There are no scores, several tables match, or a slide has no scores.
        CacheError: scores.h5 is damaged.
    """
    return _choose_slides(config, _read(config))


def _read(config: HeatmapConfig) -> ChosenScores:
    path = config.scores / FILENAME if config.scores.is_dir() else config.scores
    if not path.is_file():
        raise UsageError(
            f"{path} does not exist.",
            hint="Pass scores.h5 or its `slpd mil-eval` folder, or a CSV.",
        )
    if path.suffix.lower() == ".csv":
        if config.model or config.aggregator or config.best:
            raise UsageError(f"{path} is a CSV; --model, --aggregator and --best select scores in a scores.h5.")
        return ChosenScores("", "", read_score_csv(path))
    table = _choose_table(config, path, read_scores(path))
    slides = {slide: partial(table.slide, index) for index, slide in enumerate(table.slide_ids)}
    return ChosenScores(table.model, table.aggregator, slides)


def _choose_table(config: HeatmapConfig, path: Path, tables: tuple[ScoreTable, ...]) -> ScoreTable:
    if not tables:
        raise UsageError(
            f"{path} contains no scores: probes have no attention, and slide vectors have no regions.",
            hint="Run `slpd mil-eval` with --aggregator abmil.",
        )
    if config.best:
        return _best(path, tables)
    fitting = [
        table
        for table in tables
        if config.model in {None, table.model} and config.aggregator in {None, table.aggregator}
    ]
    if len(fitting) != 1:
        found = "; ".join(f"--model {table.model} --aggregator {table.aggregator}" for table in fitting or tables)
        what = "several sets of scores match" if fitting else "no scores match"
        raise UsageError(f"{path}: {what} --model and --aggregator.", hint=f"Choose one: {found}.")
    return fitting[0]


def _best(path: Path, tables: tuple[ScoreTable, ...]) -> ScoreTable:
    """Return the table with the highest mean of the headline metric.

    Raises:
        UsageError: The results of the evaluation cannot be read.
    """
    results = path.with_name(_RESULTS)
    try:
        document = json.loads(results.read_text(encoding="utf-8"))
        means = {
            (each["model"], each["aggregator"]): each["metrics"][document["task"]["headline"]]["mean"]
            for each in document["results"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--best: {results} cannot be read ({error}).", hint="Pass --model and --aggregator instead."
        ) from error
    worst = float("-inf")
    return max(tables, key=lambda table: means.get((table.model, table.aggregator)) or worst)


def _choose_slides(config: HeatmapConfig, source: ChosenScores) -> ChosenScores:
    absent = [slide for slide in config.slide if slide not in source.slides]
    if absent:
        raise UsageError(
            f"--slide: there are no scores for {listed(absent)}.", hint=f"Slides with scores: {listed(source.slides)}."
        )
    names = list(config.slide or source.slides)[: config.limit or None]
    return replace(source, slides={name: source.slides[name] for name in names})
