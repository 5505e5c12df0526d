"""Pairs of simulated cohorts: does the interval of the drop cover, and how often is a usual slide marked as far?

    python -m benchmarks.external_simulated drop      # coverage of the drop from cross-validation to another cohort
    python -m benchmarks.external_simulated far       # false alarms of the distance from the training set

Drop: training cohorts of 100 patients and external ones of 100, one vector per slide, `probe`, five folds. The external
cohort is the same, has a weaker signal, or is moved as by another scanner. The true drop is the mean of all runs of a
setting, so that the interval must also cover what other training patients would have given, although it takes the heads
as they are.

Far: training sets of 40, 100 and 300 slides, with normal or heavy-tailed vectors, and 400 further slides of the same
kind: share that is marked, intended 5 %.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from slpd_toolkit.core.files import write_text
from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.bundle.distance import TrainingSet
from slpd_toolkit.mil.bundle.making import make_bundles
from slpd_toolkit.mil.bundle.origin import Origin
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.external.evaluating import Internal, Target, evaluate_external
from slpd_toolkit.mil.heads.training import HeadTraining
from slpd_toolkit.mil.statistics.model_results import Counting, evaluate_models
from slpd_toolkit.mil.statistics.results import Evaluation, Representation
from slpd_toolkit.mil.tasks.kinds.classification import Classification

RESULTS = Path(__file__).parent / "results"
PATIENTS, WIDTH, SIGNAL = 100, 16, 1.0
SETTINGS = {"equal cohorts": (1.0, 0.0), "weaker signal": (0.5, 0.0), "moved by a scanner": (0.8, 1.0)}
"""Signal of the external cohort relative to the training cohort's, and a shift of all its vectors."""


def cohort_of(rng: np.random.Generator, signal: float, shift: float) -> tuple[Cohort, Classification, Bags]:
    targets = np.arange(PATIENTS) % 2
    slides = np.array([f"p{number:03}" for number in range(PATIENTS)])
    vectors = rng.normal(size=(PATIENTS, WIDTH))
    vectors[:, :2] += signal * targets[:, None] / np.sqrt(2)
    vectors += shift * np.linspace(-1, 1, WIDTH)
    bags = Bags(tuple(slides.tolist()), vectors.astype(np.float32), np.arange(PATIENTS + 1))
    task = Classification(("a", "b"), targets)
    return Cohort(slides, slides, task.strata), task, bags


def one_run(seed: int, signal: float, shift: float) -> dict[str, float]:
    """Return the drop of the AUC with its interval."""
    rng = np.random.default_rng(seed)
    cohort, task, bags = cohort_of(rng, SIGNAL, 0.0)
    other, other_task, other_bags = cohort_of(rng, SIGNAL * signal, shift)
    splits = cross_validation(cohort, folds=5, seed=seed)
    representation = Representation("m", "m", bags)
    results, judgements, _ = evaluate_models(
        task, cohort, [representation], {"probe": 1}, splits,
        training=HeadTraining(), counting=Counting(), seed=0, jobs=1,
    )  # fmt: skip
    evaluation = Evaluation("label", task, cohort, (representation,), results, "patient", False, (), {"m": ()}, {})
    (bundle,) = make_bundles(evaluation, splits, {"m": Origin("table", "m", "", WIDTH)})
    internal = Internal(task, cohort, judgements[0], results[0].folds)
    found = evaluate_external(bundle, internal, Target(other_task, other, None, "patient"), other_bags, seed)
    drop = found.drops["auc"]
    return {"drop": drop.value, "low": drop.low, "high": drop.high, "far": found.far / PATIENTS}


def drops(runs: int) -> dict[str, Any]:
    """Measure the coverage of each setting."""
    document: dict[str, Any] = {}
    for name, (signal, shift) in SETTINGS.items():
        found = [one_run(seed, signal, shift) for seed in range(runs)]
        values, low, high = (np.array([each[key] for each in found]) for key in ("drop", "low", "high"))
        truth = float(values.mean())
        document[name] = {
            "runs": runs,
            "true_drop": truth,
            "covered": float(((low <= truth) & (truth <= high)).mean()),
            "interval_without_0": float((low > 0).mean() + (high < 0).mean()),
            "mean_width": float((high - low).mean()),
            "far": float(np.mean([each["far"] for each in found])),
        }
    return document


def false_alarms(runs: int) -> list[dict[str, Any]]:
    """Measure how many usual slides are marked."""
    rows = []
    for tails in ("normal", "heavy tails (t, 3 degrees)"):
        for width in (16, 384):
            for slides in (40, 100, 300):
                marked, stated = [], []
                for seed in range(runs):
                    rng = np.random.default_rng([seed, width, slides])
                    scales = np.geomspace(1, 0.05, width)
                    draw = rng.normal if tails == "normal" else lambda size, rng=rng: rng.standard_t(3, size)
                    vectors = (draw(size=(slides + 400, width)) * scales).astype(np.float32)
                    parts = np.array_split(rng.permutation(slides), 5)
                    known = TrainingSet.of(vectors[:slides], parts)
                    marked.append(float((known.neighbourhood.distances(vectors[slides:]) > known.limit).mean()))
                    stated.append(known.false_alarm_rate)
                rows.append(
                    {
                        "vectors": tails, "features": width, "training_slides": slides, "runs": runs,
                        "marked": float(np.mean(marked)), "sd_over_cohorts": float(np.std(marked)),
                        "stated_in_the_card": float(np.mean(stated)),
                    }
                )  # fmt: skip
    return rows


def text_of(document: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    lines = ["# External cohorts and far slides in simulations", ""]
    if "drop" in document:
        lines += [
            "`python -m benchmarks.external_simulated drop`: 100 + 100 patients, probe, five folds, drop of the AUC.",
            "",
            "| external cohort | runs | true drop | interval covers it | excludes 0 | mean width | marked as far |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {name} | {each['runs']} | {each['true_drop']:.3f} | {100 * each['covered']:.1f} % | "
            f"{100 * each['interval_without_0']:.1f} % | {each['mean_width']:.3f} | {100 * each['far']:.1f} % |"
            for name, each in document["drop"].items()
        ]
        lines.append("")
    if "far" in document:
        lines += [
            "`python -m benchmarks.external_simulated far`: share of usual slides that are marked, intended 5 %.",
            "",
            "| vectors | features | training slides | runs | marked | sd over training sets | stated in the card |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row['vectors']} | {row['features']} | {row['training_slides']} | {row['runs']} | "
            f"{100 * row['marked']:.1f} % | {100 * row['sd_over_cohorts']:.1f} % | "
            f"{100 * row['stated_in_the_card']:.1f} % |"
            for row in document["far"]
        ]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("drop", "far"))
    parser.add_argument("--runs", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    path = args.out / "external-simulated.json"
    document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    document[args.what] = drops(args.runs or 200) if args.what == "drop" else false_alarms(args.runs or 100)
    write_text(path, json.dumps(document, indent=2) + "\n")
    write_text(path.with_suffix(".md"), text_of(document))


if __name__ == "__main__":
    main()
