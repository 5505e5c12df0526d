"""`slpd mil-eval`, `predict`, `represent` and `heatmap` with the region ViT on the device, against the CPU.

Heads run on the CPU by design, so that what is compared are region embeddings, attention and what follows from them.
"""

from __future__ import annotations

import csv
import json
import shutil
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gpu.place import least_cosine, relative_difference
from slpd_toolkit.api.functions import region_embeddings
from slpd_toolkit.commands import heatmap, mil_eval, predict, pretrain, represent
from slpd_toolkit.config.heatmap import HeatmapConfig
from slpd_toolkit.config.mil_eval import MilEvalConfig
from slpd_toolkit.config.predict import PredictConfig
from slpd_toolkit.config.pretrain import PretrainConfig
from slpd_toolkit.config.recipe import build
from slpd_toolkit.config.represent import RepresentConfig
from slpd_toolkit.models.region_vit import REGION_VIT
from slpd_toolkit.report.scores import read_scores
from slpd_toolkit.representations.vector_sources import read_stored_vectors
from tests.evaluations import two_classes
from tests.training.runs import TINY

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.gpu.place import Place
    from tests.evaluations import Planted

_WHERE = ("reference", "device")
"""The CPU, and the device that is compared with it."""


def run(place: Place) -> dict[str, Any]:
    cohort = two_classes(place.folder, slides=24, shift=1.0)
    network = place.folder / "run"
    small = {**TINY, "global_side": 2, "local_side": 1, "epochs": 1, "prototype_epoch": 0, "warmup_epochs": 0}
    small |= {"min_regions": 2, "device": place.device}
    assert pretrain.run(build(PretrainConfig, {"cache": cohort.cache, "out": network, **small})) == 0
    for where in _WHERE:  # apart, since embeddings are stored beside the network
        (place.folder / f"net-{where}").mkdir()
        shutil.copy(network / REGION_VIT, place.folder / f"net-{where}")
    _check_embeddings(place, cohort)
    aggregators = ("abmil",) if place.tiny else ("knn", "probe", "abmil")
    seconds = {where: _evaluate(place, cohort, where, aggregators) for where in _WHERE}
    _check_evaluation(place)
    _check_predictions(place, cohort)
    _check_vectors(place, cohort)
    return {"aggregators": list(aggregators), "seconds": seconds}


def _check_embeddings(place: Place, cohort: Planted) -> None:
    expected = region_embeddings(cohort.cache, place.folder / "net-reference", device="cpu", precision="fp32").values
    for precision in place.all_precisions:
        found = region_embeddings(
            cohort.cache, place.folder / "net-device", device=place.device, precision=precision
        ).values
        limit = {"fp32": 1e-5, "bf16": 1e-2, "fp16": 1e-3}[precision]
        what = f"1 - least cosine of region embeddings, {precision} vs. fp32 on the CPU"
        place.check(what, 1 - least_cosine(expected, found), limit)


def _evaluate(place: Place, cohort: Planted, where: str, aggregators: tuple[str, ...]) -> float:
    started = time.perf_counter()
    config = MilEvalConfig(
        cache=cohort.cache,
        manifest=cohort.manifest,
        out=place.folder / f"eval-{where}",
        model=(f"net={place.folder / f'net-{where}'}",),
        aggregator=aggregators,
        folds=3,
        repeats=1,
        permutations=100,
        steps=40,
        jobs=1,
        lr=0.005,
        device=_device(place, where),
        precision="fp32",
    )
    place.require(f"mil-eval, {where}, ends with exit code 0", ok=mil_eval.run(config) == 0)
    return round(time.perf_counter() - started, 1)


def _check_evaluation(place: Place) -> None:
    """Compare every headline metric, and the scores of regions."""
    documents = [json.loads((folder / "metrics.json").read_text(encoding="utf-8")) for folder in _evaluations(place)]
    for one, other in zip(*(document["results"] for document in documents), strict=True):
        name = documents[0]["task"]["headline"]
        values = [each["metrics"][name]["mean"] for each in (one, other)]
        place.check(f"{one['model']}, {one['aggregator']}: difference of {name}", abs(values[0] - values[1]), 0.02)
    for one, other in zip(*(read_scores(folder / "scores.h5") for folder in _evaluations(place)), strict=True):
        differences = [
            float(np.abs(one.slide(number).scores - other.slide(number).scores).max())
            for number in range(len(one.slide_ids))
        ]
        place.check(f"largest difference of a region's score, {one.model}, {one.aggregator}", max(differences), 0.02)


def _check_predictions(place: Place, cohort: Planted) -> None:
    """Predict slides with the bundle that the CPU trained, and draw their attention."""
    (bundle, _) = _evaluations(place)
    found = []
    for where in _WHERE:
        out = place.folder / f"predictions-{where}"
        chosen: dict[str, Any] = {"bundle": bundle, "model": "net", "aggregator": "abmil", "pages": False}
        chosen |= {"cache": cohort.cache, "device": _device(place, where), "precision": "fp32"}
        code = predict.run(PredictConfig(out=out, **chosen))
        place.require(f"predict, {where}, ends with exit code 0", ok=code == 0)
        with (out / "predictions.csv").open(encoding="utf-8", newline="") as file:
            found.append([float(row["probability_b"]) for row in csv.DictReader(file)])
        drawn = out / "heatmaps"
        code = heatmap.run(HeatmapConfig(scores=out, out=drawn, limit=2, jobs=1))
        place.require(f"heatmap, {where}: 2 images and 2 GeoJSON", ok=code == 0 and len(list(drawn.iterdir())) == 5)
    place.check("predicted probabilities vs. the CPU, relative", relative_difference(*found), 1e-3)


def _check_vectors(place: Place, cohort: Planted) -> None:
    vectors = []
    for where in _WHERE:
        out = place.folder / f"vectors-{where}"
        settings: dict[str, Any] = {"model": str(place.folder / f"net-{where}"), "device": _device(place, where)}
        settings |= {"cache": cohort.cache, "as_": "mean-sd", "precision": "fp32"}
        assert represent.run(RepresentConfig(out=out, **settings)) == 0
        vectors.append(read_stored_vectors(out).bags.features)
    place.check("slide vectors of represent vs. the CPU, relative", relative_difference(*vectors), 1e-4)


def _evaluations(place: Place) -> list[Path]:
    return [place.folder / f"eval-{where}" for where in _WHERE]


def _device(place: Place, where: str) -> str:
    return "cpu" if where == "reference" else place.device
