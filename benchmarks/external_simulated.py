"""Pairs of simulated cohorts: does the interval of the drop cover, and how often is a usual slide marked as far?

    python -m benchmarks.external_simulated drop      # coverage of the drop from cross-validation to another cohort
    python -m benchmarks.external_simulated far       # false alarms of the distance from the training set

Drop: training cohorts of 100 patients and external ones of 100, one vector per slide, `probe`, five folds. The external
cohort is the same, has a weaker signal, is moved as by another scanner, or has fewer patients of the second class. The
true drop is the mean of all runs of a setting, so that the interval must also cover what other training patients would
have given, although it takes the heads as they are. The true AUC of the heads of a run is theirs on 3,000 further
patients of the external cohort, and so are the true Brier score and sensitivity. Calibration of the ensemble is
measured on these patients too, with and without the temperatures of the heads.

Far: training sets of 40, 100 and 300 slides, with normal or heavy-tailed vectors, and 400 further slides of the same
kind: share that is marked, intended 5 %.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score

from slpd_toolkit.core.files import write_text
from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.bundle.bundle import predict
from slpd_toolkit.mil.bundle.distance import TrainingSet
from slpd_toolkit.mil.bundle.making import make_bundles
from slpd_toolkit.mil.bundle.origin import Origin
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.external.evaluating import Internal, Target, evaluate_external
from slpd_toolkit.mil.heads.training import HeadTraining
from slpd_toolkit.mil.statistics.bootstrap import Estimate
from slpd_toolkit.mil.statistics.model_results import Counting, evaluate_models
from slpd_toolkit.mil.statistics.results import Evaluation, Representation
from slpd_toolkit.mil.tasks.kinds.classification import Classification
from slpd_toolkit.mil.tasks.weighted_metrics import brier_score, calibration_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.mil.statistics.intervals import Interval

RESULTS = Path(__file__).parent / "results"
PATIENTS, WIDTH, SIGNAL = 100, 16, 1.0
FURTHER = 3_000


class Shift(NamedTuple):
    """What differs in the external cohort."""

    signal: float = 1.0
    """Relative to that of the training cohort."""
    moved: float = 0.0
    """Shift of all vectors."""
    positive: float = 0.5
    """Share of the second class."""


SETTINGS = {
    "equal cohorts": Shift(),
    "weaker signal": Shift(signal=0.5),
    "moved by a scanner": Shift(signal=0.8, moved=1.0),
    "fewer of the second class": Shift(positive=0.2),
}


def cohort_of(rng: np.random.Generator, shift: Shift, patients: int = PATIENTS) -> tuple[Cohort, Classification, Bags]:
    targets = (np.arange(patients) < round(shift.positive * patients)).astype(np.int64)
    slides = np.array([f"p{number:05}" for number in range(patients)])
    vectors = rng.normal(size=(patients, WIDTH))
    vectors[:, :2] += SIGNAL * shift.signal * targets[:, None] / np.sqrt(2)
    vectors += shift.moved * np.linspace(-1, 1, WIDTH)
    bags = Bags(tuple(slides.tolist()), vectors.astype(np.float32), np.arange(patients + 1))
    task = Classification(("a", "b"), targets)
    return Cohort(slides, slides, task.strata), task, bags


def one_run(seed: int, shift: Shift) -> dict[str, float]:
    """Return the drop of the AUC and what was found on the external cohort, with intervals and true values."""
    rng = np.random.default_rng(seed)
    cohort, task, bags = cohort_of(rng, Shift())
    other, other_task, other_bags = cohort_of(rng, shift)
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
    _, truth, many = cohort_of(rng, shift, FURTHER)
    further = predict(bundle, many)
    raw = np.mean([head.raw for head in further.heads], axis=0)
    of_heads = [float(roc_auc_score(truth.targets, head.raw[:, 1])) for head in further.heads]
    weights = np.ones((1, FURTHER))
    brier = found.calibration["Brier score"][1]
    kept = found.thresholds[1]
    called = further.outputs[:, 1] >= kept.threshold
    return {
        **_estimate("drop", found.drops["auc"]),
        **_estimate("auc", Estimate(float(found.values["auc"].mean()), *_ends(found.intervals["auc"]))),
        "auc_true": float(np.mean(of_heads)),
        **_estimate("brier", brier),
        "brier_true": float(brier_score(truth.targets, further.outputs, weights)[0]),
        **_estimate("sensitivity", kept.sensitivity),
        "sensitivity_true": float(called[truth.targets == 1].mean()),
        "brier_unscaled": float(brier_score(truth.targets, raw, weights)[0]),
        "ece_scaled": float(calibration_error(truth.targets, further.outputs, weights)[0]),
        "ece_unscaled": float(calibration_error(truth.targets, raw, weights)[0]),
        "far": found.far / PATIENTS,
    }


def _ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def _estimate(name: str, found: Estimate) -> dict[str, float]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def drops(runs: int, names: Sequence[str]) -> dict[str, Any]:
    """Measure the coverage of some settings."""
    document: dict[str, Any] = {}
    for name in names:
        shift = SETTINGS[name]
        found = [one_run(seed, shift) for seed in range(runs)]
        each = {key: np.array([run[key] for run in found]) for key in found[0]}
        each["drop_true"] = np.full(runs, each["drop"].mean())
        low, high = each["drop_low"], each["drop_high"]
        document[name] = {
            "runs": runs,
            "true_drop": float(each["drop"].mean()),
            "sd_of_drops": float(each["drop"].std(ddof=1)),
            "covered": {
                key: float(
                    ((each[f"{key}_low"] <= each[f"{key}_true"]) & (each[f"{key}_true"] <= each[f"{key}_high"])).mean()
                )
                for key in ("drop", "auc", "brier", "sensitivity")
            },
            "interval_without_0": float((low > 0).mean() + (high < 0).mean()),
            "mean_width": float((high - low).mean()),
            "far": float(each["far"].mean()),
        } | {
            key: float(each[key].mean())
            for key in ("brier_unscaled", "brier_true", "ece_unscaled", "ece_scaled", "sensitivity_true")
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
        first = next(iter(document["drop"].values()))
        lines += [
            f"`python -m benchmarks.external_simulated drop --runs {first['runs']}`: probe, five folds.",
            "",
            "| external cohort | runs | true drop | sd over runs | mean width | excludes 0 | marked as far |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {name} | {each['runs']} | {each['true_drop']:.3f} | {each['sd_of_drops']:.3f} | "
            f"{each['mean_width']:.3f} | {100 * each['interval_without_0']:.1f} % | {100 * each['far']:.1f} % |"
            for name, each in document["drop"].items()
        ]
        lines += [
            "",
            "Share of intervals that cover the true value, intended 95 %. The settings have the same seeds, so their",
            "shares are not independent:",
            "",
            "| external cohort | drop | external AUC of these heads | Brier score | sensitivity |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {name} | " + " | ".join(f"{100 * share:.0f} %" for share in each["covered"].values()) + " |"
            for name, each in document["drop"].items()
        ]
        lines += [
            "",
            "The ensemble on 3,000 further patients, without and with the temperatures of its heads:",
            "",
            "| external cohort | calibration error without | with | Brier score without | with | sensitivity |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {name} | {each['ece_unscaled']:.3f} | {each['ece_scaled']:.3f} | {each['brier_unscaled']:.3f} | "
            f"{each['brier_true']:.3f} | {each['sensitivity_true']:.3f} |"
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
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), help="only these; others are kept")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    path = args.out / "external-simulated.json"
    document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if args.what == "drop":
        found = document.get("drop", {}) | drops(args.runs or 200, args.settings)
        document["drop"] = {name: found[name] for name in SETTINGS if name in found}
    else:
        document["far"] = false_alarms(args.runs or 100)
    write_text(path, json.dumps(document, indent=2) + "\n")
    write_text(path.with_suffix(".md"), text_of(document))


if __name__ == "__main__":
    main()
