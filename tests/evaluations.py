"""Token caches and manifests with a known answer, and evaluations of them that take a second."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from slpd_toolkit.commands import mil_eval
from slpd_toolkit.config.mil_eval import MilEvalConfig
from tests.cohorts import read_csv, write_manifest
from tests.token_factory import write_slide

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

QUICK: dict[str, Any] = {
    "model": ("mean-tokens",),
    "aggregator": ("knn", "probe"),
    "folds": 4,
    "repeats": 1,
    "permutations": 200,
    "steps": 200,
    "lr": 0.005,
    "jobs": 1,
    "device": "cpu",
    "precision": "fp32",
}


@dataclass(frozen=True)
class Planted:
    """A token cache and its manifest."""

    cache: Path
    manifest: Path

    def config(self, out: Path, **changes: Any) -> MilEvalConfig:
        return MilEvalConfig(**{"cache": self.cache, "manifest": self.manifest, "out": out, **QUICK, **changes})

    def evaluate(self, out: Path, **changes: Any) -> dict[str, Any]:
        """Run an evaluation and return metrics.json."""
        assert mil_eval.run(self.config(out, **changes)) == 0
        return metrics(out)


def plant(
    folder: Path,
    columns: Mapping[str, Sequence[object]],
    shifts: Sequence[float],
    *,
    patients: Sequence[str] | None = None,
    patient_mark: float = 0.0,
    seed: int = 0,
) -> Planted:
    """Write one slide per shift: noise in 2 to 4 regions of 2 x 2 tokens with 8 features, four of them shifted.

    Args:
        folder: Where `cache/` and `manifest.csv` go.
        columns: Manifest columns, with one cell per slide.
        shifts: Shift of each slide.
        patients: Patient of each slide; None omits the column.
        patient_mark: Length of a random vector added to all regions of a patient.
        seed: Random seed.
    """
    rng = np.random.default_rng(seed)
    cache = folder / "cache"
    cache.mkdir(parents=True)
    of = list(patients) if patients else [f"s{number:03}" for number in range(len(shifts))]
    marks = {patient: patient_mark * rng.standard_normal(8) for patient in dict.fromkeys(of)}
    rows = []
    for number, shift in enumerate(shifts):
        tokens = rng.standard_normal((rng.integers(2, 5), 2, 2, 8)) + marks[of[number]]
        tokens[..., :4] += shift
        slide = f"s{number:03}"
        write_slide(cache, slide, tokens)
        row: dict[str, object] = {"slide_id": slide, **{name: cells[number] for name, cells in columns.items()}}
        rows.append(row | ({"patient_id": of[number]} if patients else {}))
    return Planted(cache, write_manifest(folder / "manifest.csv", rows))


def two_classes(folder: Path, slides: int = 24, shift: float = 6.0, **more: Any) -> Planted:
    """Write alternating classes a and b; slides of b are shifted."""
    labels = ["ab"[number % 2] for number in range(slides)]
    return plant(folder, {"label": labels}, [shift * (label == "b") for label in labels], **more)


def metrics(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return found


def headline(found: Mapping[str, Any], aggregator: str, model: str = "mean-tokens") -> dict[str, Any]:
    """Return the headline metric of a model with an aggregator."""
    (result,) = [each for each in found["results"] if (each["model"], each["aggregator"]) == (model, aggregator)]
    values: dict[str, Any] = result["metrics"][found["task"]["headline"]]
    return values


def rewrite(manifest: Path, change: Any) -> None:
    """Replace the rows of a manifest by the result of `change`."""
    write_manifest(manifest, change(read_csv(manifest)))
