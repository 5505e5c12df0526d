"""Predictions of slides, from predictions.csv of `slpd mil-eval` and of `slpd predict`."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slpd_toolkit.report.evaluation_folder import PREDICTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_PROBABILITY = "probability_"


@dataclass
class Predicted:
    """Predictions of one model and aggregator: means over repeats."""

    name: str
    """Shown name."""
    folder: Path
    """Folder of the evaluation."""
    classes: tuple[str, ...] = ()
    """Empty for grades, numbers and survival."""
    targets: dict[str, str] = field(default_factory=dict)
    """Label of each slide, where the file has one."""
    outputs: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Probability of each class, or the predicted number or risk, by slide."""
    decisions: dict[str, str] = field(default_factory=dict)
    """Class of each slide."""
    unit: str = "probability"
    """Meaning of `outputs`: `probability`, `predicted` or `risk`."""
    far: set[str] = field(default_factory=set)
    """Slides that `slpd predict` marks as far from the training set."""


def read_predictions(folder: Path, name: str) -> list[Predicted]:
    """Read the predictions of a folder; empty if it has none.

    Args:
        folder: Folder of an evaluation or of predictions.
        name: Shown name of the folder.

    Raises:
        ValueError: The file is damaged.
        OSError: The file cannot be read.
    """
    path = folder / PREDICTIONS
    if not path.is_file():
        return []
    found: dict[tuple[str, str], _Sums] = {}
    with path.open(newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            key = (row.get("model") or "", row.get("aggregator") or "")
            found.setdefault(key, _Sums()).add(row)
    return [
        sums.mean(" · ".join(part for part in (name, *key) if part), folder) for key, sums in found.items() if sums.sums
    ]


class _Sums:
    """Sums of the outputs of repeats."""

    def __init__(self) -> None:
        self.classes: tuple[str, ...] = ()
        self.unit = "probability"
        self.sums: dict[str, list[float]] = {}
        self.counts: dict[str, int] = {}
        self.targets: dict[str, str] = {}
        self.decided: dict[str, str] = {}
        self.far: set[str] = set()

    def add(self, row: Mapping[str, str]) -> None:
        """Add a row of the file."""
        self.classes = self.classes or tuple(_classes(row))
        self.unit = "probability" if self.classes else "risk" if "risk" in row else "predicted"
        names = [f"{_PROBABILITY}{each}" for each in self.classes] or [self.unit]
        values = [float(row[name]) for name in names if row.get(name)]
        slide = row.get("slide_id") or ""
        if not slide or len(values) != len(names) or not all(map(math.isfinite, values)):
            return
        before = self.sums.get(slide, [0.0] * len(values))
        self.sums[slide] = [one + other for one, other in zip(before, values, strict=True)]
        self.counts[slide] = self.counts.get(slide, 0) + 1
        target = row.get("target") or row.get("time")
        if target:
            self.targets[slide] = target
        if row.get("decision"):
            self.decided[slide] = row["decision"]
        if row.get("far_from_training") == "yes":
            self.far.add(slide)

    def mean(self, name: str, folder: Path) -> Predicted:
        """Average over repeats."""
        outputs = {slide: tuple(value / self.counts[slide] for value in values) for slide, values in self.sums.items()}
        decisions = {
            slide: self.decided.get(slide) or self.classes[max(range(len(values)), key=values.__getitem__)]
            for slide, values in outputs.items()
            if self.classes
        }
        return Predicted(name, folder, self.classes, self.targets, outputs, decisions, self.unit, self.far)


def _classes(row: Mapping[str, str]) -> Iterator[str]:
    return (name.removeprefix(_PROBABILITY) for name in row if name.startswith(_PROBABILITY))
