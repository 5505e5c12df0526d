"""The tables of docs/ablation.md, from what `python -m benchmarks.planted.ablate` wrote."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "planted.csv"
METRICS = {
    "regions knn": "regions: nearest neighbours",
    "prototypes nmi": "prototypes: NMI",
    "class prototype-histogram": "class: AUC",
    "class prototype-histogram 25%": "class: AUC, a quarter of the labels",
}
"""What is shown, and what it is called here."""


def tables() -> Iterator[str]:
    """For each cohort its rows by metric, then the comparisons that were tested."""
    if not RESULT.exists():
        yield "Not in this checkout: the command above writes them."
        return
    with RESULT.open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["metric"] in METRICS]
    for cohort in dict.fromkeys(line["cohort"] for line in lines):
        inside = [line for line in lines if line["cohort"] == cohort]
        yield from ("", f"### Cohort: {cohort}", "")
        yield from _means([line for line in inside if not line["against"]])
        yield from ("", "Differences, paired by seed; p by a t-test, adjusted by Holm's method over all of them:", "")
        yield from _differences([line for line in inside if line["against"]])


def _means(lines: Sequence[dict[str, str]]) -> Iterator[str]:
    values = {(line["row"], line["metric"]): line for line in lines}
    yield f"| row | seeds | {' | '.join(METRICS.values())} |"
    yield f"|---|---|{'---|' * len(METRICS)}"
    for row in dict.fromkeys(line["row"] for line in lines):
        cells = [values.get((row, metric)) for metric in METRICS]
        seeds = max(int(cell["seeds"]) for cell in cells if cell)
        shown = " | ".join(_mean(cell) if cell else "-" for cell in cells)
        yield f"| {row} | {seeds} | {shown} |"


def _mean(line: dict[str, str]) -> str:
    spread = f" ± {float(line['sd']):.3f}" if line["sd"] else ""
    return f"{float(line['mean']):.3f}{spread}"


def _differences(lines: Sequence[dict[str, str]]) -> Iterator[str]:
    yield "| row | against | metric | difference | seeds won | adjusted p |"
    yield "|---|---|---|---|---|---|"
    for line in lines:
        metric, difference = METRICS[line["metric"]], float(line["difference"])
        p_value = line["p_holm"] or "-"
        yield f"| {line['row']} | {line['against']} | {metric} | {difference:+.3f} | {line['wins']} | {p_value} |"
