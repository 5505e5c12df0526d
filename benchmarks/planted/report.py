"""Combine the results of units into a JSON file, a table and a figure. See `benchmarks.planted.ablate`."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np

from benchmarks.measure import machine
from slpd_toolkit.core.files import atomic_path, write_csv, write_text
from slpd_toolkit.mil.statistics.paired_tests import corrected_t_test, holm

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

mpl.use("Agg")

from matplotlib import pyplot as plt

FIGURE_METRICS = ("regions knn", "prototypes nmi", "class prototype-histogram")
TESTED_METRICS = ("regions knn", "prototypes nmi", "class prototype-histogram 25%")
COMPARISONS = (
    ("SLPD matched", "DINO"),
    ("SLPD matched", "SLPD shuffled"),
    ("SLPD weights 4", "DINO"),
    ("SLPD weights 4", "SLPD weights 4 shuffled"),
    ("DINO fan-in", "DINO"),
    ("SLPD weights 4 fan-in", "DINO fan-in"),
    ("DINO region offset", "DINO"),
    ("DINO region offset", "mean tokens"),
    ("SLPD region offset", "DINO region offset"),
    ("DINO fan-in, teacher temp 0.02", "DINO"),
    ("DINO fan-in, teacher temp 0.02", "mean tokens"),
    ("SLPD fan-in, teacher temp 0.02", "DINO fan-in, teacher temp 0.02"),
)
"""Pairs of rows that are compared by a test, in each cohort and for each tested metric (the family of Holm's method).
Each pair was chosen before its rows were run on a seed from 10 on; those with fan-in, offset or temperature were added
later."""
FIRST_TESTED_SEED = 10
"""First seed that is tested. Smaller seeds were used to choose parameters, settings and comparisons, so that tests on
them would be invalid."""
LEAST_SEEDS = 5
"""Minimum number of seeds for a test."""
COLUMNS = ("cohort", "row", "metric", "seeds", "mean", "sd", "against", "difference", "wins", "p", "p_holm")

Scores = dict[tuple[str, str, str], dict[int, float]]
"""(cohort, row, metric) -> seed -> value."""


def write_report(out: Path, into: Path, command: str, settings: Mapping[str, Any], order: Sequence[str]) -> None:
    """Write planted.json, planted.csv and planted.svg, and tuning.csv of the seeds that are not tested.

    Args:
        out: Folder with the results of the units.
        into: Folder of the report.
        command: Command that produced the units.
        settings: Settings shared by all units.
        order: Order of the rows in tables and figure.
    """
    units = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*/seed*/*.json"))]
    chosen_on = [unit for unit in units if unit["seed"] < FIRST_TESTED_SEED]
    scores = _scores([unit for unit in units if unit["seed"] >= FIRST_TESTED_SEED])
    into.mkdir(parents=True, exist_ok=True)
    cpu = [unit["training_cpu_s"] for unit in units if unit["training_cpu_s"] > 0]
    summary = {
        "command": command,
        "machine": machine(),
        "units": len(units),
        "median_training_cpu_s": float(np.median(cpu)) if cpu else None,
        "total_cpu_s": round(sum(unit["training_cpu_s"] + unit["measuring_cpu_s"] for unit in units)),
        "settings": settings,
        "results": [{**unit, "metrics": _rounded(unit["metrics"])} for unit in units],
    }
    write_text(into / "planted.json", json.dumps(summary, default=str, allow_nan=False) + "\n")
    write_csv(into / "planted.csv", COLUMNS, _table(scores, order, least_seeds=LEAST_SEEDS))
    write_csv(into / "tuning.csv", COLUMNS, _table(_scores(chosen_on), order, least_seeds=math.inf))
    _draw(scores, order, into / "planted.svg")


def _rounded(value: Any) -> Any:
    """Round to four digits; NaN becomes None, which JSON supports."""
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return None if math.isnan(value) else round(value, 4)


def _scores(units: Sequence[Mapping[str, Any]]) -> Scores:
    scores: Scores = defaultdict(dict)
    for unit in units:
        for metric, value in unit["metrics"].items():
            values = np.array(value, dtype=np.float64)
            if not np.isnan(values).all():
                scores[unit["cohort"], unit["row"], metric][unit["seed"]] = float(np.nanmean(values))
    return dict(scores)


def _table(scores: Scores, order: Sequence[str], *, least_seeds: float) -> list[dict[str, Any]]:
    """Return a line per cohort, metric and pair of rows; tested if there are at least `least_seeds` seeds."""
    rows: list[dict[str, Any]] = []
    place = {row: number for number, row in enumerate(order)}
    for cohort, row, metric in sorted(scores, key=lambda key: (key[0], key[2], place[key[1]])):
        of_seed = scores[cohort, row, metric]
        values = np.array(list(of_seed.values()))
        described = {
            "cohort": cohort,
            "row": row,
            "metric": metric,
            "seeds": len(values),
            "mean": round(float(values.mean()), 4),
            "sd": round(float(values.std(ddof=1)), 4) if len(values) > 1 else "",
        }
        rows.append(described)
        others = [other for one, other in COMPARISONS if one == row and (cohort, other, metric) in scores]
        if metric in TESTED_METRICS:
            rows += [
                described | _compared(of_seed, scores[cohort, other, metric], other, least_seeds) for other in others
            ]
    tested = [line for line in rows if "p" in line]
    adjusted = holm(np.array([line["p"] for line in tested], dtype=np.float64))
    for line, p_value in zip(tested, adjusted, strict=True):
        line["p"], line["p_holm"] = float(f"{line['p']:.2g}"), float(f"{p_value:.2g}")
    return rows


def _compared(one: Mapping[int, float], other: Mapping[int, float], name: str, least_seeds: float) -> dict[str, Any]:
    """Compare two rows, paired by seed. Seeds are separate cohorts, so training slides are not shared."""
    seeds = sorted(one.keys() & other.keys())
    differences = np.array([one[seed] - other[seed] for seed in seeds])
    found = {
        "against": name,
        "difference": round(float(differences.mean()), 4),
        "wins": f"{(differences > 0).sum()} of {len(seeds)}",
    }
    enough = len(seeds) >= least_seeds
    return found | ({"p": corrected_t_test(differences, test_train_ratio=0.0).p_value} if enough else {})


def _draw(scores: Scores, order: Sequence[str], path: Path) -> None:
    """Draw a point per seed and a bar at the mean; cohorts as rows, metrics as columns."""
    cohorts = sorted({cohort for cohort, _, _ in scores})
    shown = [[row for row in order if (cohort, row, FIGURE_METRICS[0]) in scores] for cohort in cohorts]
    heights = [0.9 + 0.22 * len(rows) for rows in shown]
    figure, axes = plt.subplots(
        len(cohorts),
        len(FIGURE_METRICS),
        figsize=(13, sum(heights)),
        height_ratios=heights,
        squeeze=False,
        sharey="row",
    )
    for cohort, present, line in zip(cohorts, shown, axes, strict=True):
        for axis, metric in zip(line, FIGURE_METRICS, strict=True):
            for height, row in enumerate(present):
                values = list(scores.get((cohort, row, metric), {}).values())
                if not values:
                    continue
                axis.plot(values, [height] * len(values), "o", color="0.6", markersize=4)
                axis.plot([np.mean(values)], [height], "|", color="tab:blue", markersize=14, markeredgewidth=2)
            axis.set_yticks(range(len(present)), present)
            axis.set_ylim(len(present) - 0.5, -0.5)
            axis.grid(axis="x", color="0.9")
            axis.set_title(f"{cohort}: {metric}", fontsize=10)
    figure.tight_layout()
    with atomic_path(path) as partial:
        figure.savefig(partial, format="svg", metadata={"Date": None})
    plt.close(figure)
