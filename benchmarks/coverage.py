"""Do intervals cover and do tests reject as often as they say? Simulated cohorts with a known truth.

    python -m benchmarks.coverage --cohorts 600              # all situations, about an hour of one core
    python -m benchmarks.coverage --only "probe noise, balanced, 10 x 1" --cohorts 200

Each situation is simulated in chunks of 50 cohorts that share labels and folds (20 by site). The truth of an interval
is the mean over all cohorts, that is the expected area of heads trained on as many patients; for noise it is 0.5.
Results are written after each situation to benchmarks/results/coverage.csv, and as tables to coverage.md.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.simulated import before
from benchmarks.simulated.cohorts import Design, embed, lay_out, predict
from benchmarks.simulated.evidence import areas, division_of
from benchmarks.simulated.tables import Row, read_rows, write_rows, write_summary, write_tables
from slpd_toolkit.mil.statistics.intervals import interval_of_difference, interval_of_mean
from slpd_toolkit.mil.statistics.paired_tests import corrected_t_test, inflation_of_swaps, shared_training_test

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.simulated.cohorts import Layout
    from benchmarks.simulated.evidence import Areas
    from slpd_toolkit.mil.arrays import FloatArray

RESULTS = Path(__file__).parent / "results"
_COHORTS_OF_NETWORKS = 40
NOISE, WEAK, MIDDLE, STRONG = 0.0, 1.25, 2.2, 3.5
"""Distances of the class means at which the probe of 150 patients reaches areas of .5, .75, .9 and .98."""


@dataclass(frozen=True)
class Situation:
    """What is simulated."""

    name: str
    head: str
    design: Design
    distances: tuple[float, ...]
    """One: an interval. Two: a comparison of two representations."""


def situations() -> list[Situation]:
    found = []
    for head in ("probe", "knn"):
        for who, patients, positive in (("balanced", 150, 0.5), ("20 % positive", 120, 0.2)):
            for folds, repeats in ((5, 1), (5, 5), (10, 1)):
                design = Design(patients, positive, folds, repeats)
                for signal, distance in (("noise", NOISE), ("AUC .75", WEAK), ("AUC .9", MIDDLE), ("AUC .98", STRONG)):
                    found.append(Situation(f"{head} {signal}, {who}", head, design, (distance,)))
                for signal, pair in (
                    ("equal, noise", (NOISE, NOISE)),
                    ("equal, AUC .75", (WEAK, WEAK)),
                    ("equal, AUC .9", (MIDDLE, MIDDLE)),
                    ("AUC .75 and .82", (WEAK, 1.65)),
                    ("AUC .75 and .9", (WEAK, MIDDLE)),
                ):
                    found.append(Situation(f"{head} {signal}, {who}", head, design, pair))
        for sites, folds, repeats in ((8, 3, 1), (12, 5, 1), (12, 5, 3), (30, 5, 1), (30, 5, 5)):
            design = Design(150, 0.5, folds, repeats, sites)
            for signal, distance in (("noise", NOISE), ("signal", MIDDLE)):
                found.append(Situation(f"{head} {signal}, {sites} sites with marks", head, design, (distance,)))
            for signal, pair in (("equal", (MIDDLE, MIDDLE)), ("different", (WEAK, STRONG))):
                found.append(Situation(f"{head} {signal}, {sites} sites with marks", head, design, pair))
    few = Design(80, 0.5, 5, 1)
    found += [Situation(f"abmil {name}, balanced", "abmil", few, (x,)) for name, x in (("noise", 0.0), ("signal", 2.0))]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohorts", type=int, default=600)
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument(
        "--only", action="append", default=[], help="part of `situation, folds x repeats`; repeat for several"
    )
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop before the next situation after that")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    start, rows = time.monotonic(), read_rows(args.out)
    done = {
        (row.situation, row.folds, row.repeats)
        for row in rows
        if row.cohorts >= (min(args.cohorts, _COHORTS_OF_NETWORKS) if row.head == "abmil" else args.cohorts)
    }
    for situation in situations():
        key = (situation.name, situation.design.folds, situation.design.repeats)
        label = f"{situation.name}, {situation.design.folds} x {situation.design.repeats}"
        if key in done or (args.only and not any(part in label for part in args.only)):
            continue
        if time.monotonic() - start > args.seconds:
            break
        new = list(simulate(situation, args.cohorts, args.seed))
        rows = [row for row in rows if (row.situation, row.folds, row.repeats) != key] + new
        write_rows(args.out, rows)
        print(f"{time.monotonic() - start:5.0f} s", *new, sep="\n  ", flush=True)
    write_summary(args.out, rows)
    write_tables(args.out, rows, f"python -m benchmarks.coverage --cohorts {args.cohorts} --seed {args.seed}")


def simulate(situation: Situation, cohorts: int, seed: int) -> Iterator[Row]:
    """One row per method."""
    if situation.head == "abmil":
        cohorts = min(cohorts, _COHORTS_OF_NETWORKS)
    chunk = 20 if situation.design.sites or situation.head == "abmil" else 50
    rng = np.random.default_rng([seed, *situation.name.encode(), situation.design.folds, situation.design.repeats])
    judge = _intervals if len(situation.distances) == 1 else _tests
    parts: list[dict[str, FloatArray]] = []
    means = []
    marks: dict[str, bool] = {}
    for _ in range(math.ceil(cohorts / chunk)):
        layout = lay_out(situation.design, rng)
        features = embed(layout, situation.design, situation.distances, chunk, rng)
        scores = [predict(situation.head, each, layout) for each in features]
        found = [replace(areas(each, layout), linear=situation.head == "probe") for each in scores]
        parts.append(judge(found, scores, layout, rng))
        marks = marks or _marks(found, layout)
        means.append(np.stack([each.values.mean(axis=0) for each in found]))
    mean = np.concatenate(means, axis=1)
    merged = {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}
    blank = Row(situation.name, situation.head, situation.design.folds, situation.design.repeats, mean.shape[1], seed)
    if len(situation.distances) == 1:
        truth = 0.5 if situation.distances == (NOISE,) else float(mean[0].mean())
        for name, (low, high) in merged.items():
            row = replace(blank, kind="interval", method=name, truth=truth, sd=float(mean[0].std()))
            row = replace(row, conservative=marks.get(name, False))
            yield row.with_share((low <= truth) & (truth <= high), width=float(np.nanmean(high - low)))
        return
    difference = mean[0] - mean[1]
    kind = "test, equal" if situation.distances[0] == situation.distances[1] else "test, power"
    truth = 0.0 if kind == "test, equal" else float(difference.mean())
    for name, measured in merged.items():
        row = replace(blank, method=name, truth=truth, sd=float(difference.std()), conservative=marks.get(name, False))
        if measured.ndim == 2:
            low, high = measured
            of_difference = replace(row, kind="interval of difference")
            yield of_difference.with_share((low <= truth) & (truth <= high), width=float(np.nanmean(high - low)))
        else:
            yield replace(row, kind=kind).with_share(measured < 0.05)


def _intervals(
    found: list[Areas], scores: list[FloatArray], layout: Layout, rng: np.random.Generator
) -> dict[str, FloatArray]:
    (area,), (score,) = found, scores
    division = division_of(layout)
    made = [interval_of_mean(area.evidence(cohort, layout), division) for cohort in range(score.shape[1])]
    return {
        "used": np.array([[each.low for each in made], [each.high for each in made]]),
        "bootstrap over patients": before.bootstrap(score, layout, rng),
        "influence curve": before.influence_curve(area, layout),
        "corrected variance of folds": before.corrected_variance(area, division),
    }


def _tests(
    found: list[Areas], scores: list[FloatArray], layout: Layout, rng: np.random.Generator
) -> dict[str, FloatArray]:
    difference, division = found[0] - found[1], division_of(layout)
    evidence = [difference.evidence(cohort, layout) for cohort in range(scores[0].shape[1])]
    made = [interval_of_difference(each, division) for each in evidence]
    tested = [shared_training_test(each, division) for each in evidence]
    swapped = before.permuted_differences(scores[0], scores[1], layout, rng)
    observed = np.abs(difference.values.mean(axis=0))
    shared = [inflation_of_swaps(each, division) for each in tested]
    shrunk = observed / np.sqrt([1 + inflation for inflation, _ in shared])
    p_values = {
        "used: t": np.array([each.p_value for each in tested]),
        "used: permutation": _share_beyond(swapped, shrunk),
        "permutation": _share_beyond(swapped, observed),
        "corrected t": np.array(
            [corrected_t_test(each.values, division.test_train_ratio).p_value for each in evidence]
        ),
    }
    if not layout.by_site and len(layout.fold_of) == 1:
        p_values["DeLong over folds"] = before.delong(difference)
    return {"used": np.array([[each.low for each in made], [each.high for each in made]]), **p_values}


def _marks(found: list[Areas], layout: Layout) -> dict[str, bool]:
    """Whether what is used is marked as conservative; it depends on the splits and on the head."""
    division = division_of(layout)
    if len(found) == 1:
        return {"used": interval_of_mean(found[0].evidence(0, layout), division).conservative}
    evidence = (found[0] - found[1]).evidence(0, layout)
    t = shared_training_test(evidence, division)
    interval = interval_of_difference(evidence, division)
    permutation = inflation_of_swaps(t, division)[1]
    return {"used": interval.conservative, "used: t": t.conservative, "used: permutation": permutation}


def _share_beyond(swapped: FloatArray, observed: FloatArray) -> FloatArray:
    share: FloatArray = ((np.abs(swapped) >= observed - 1e-12).sum(axis=0) + 1) / (len(swapped) + 1)
    return share


if __name__ == "__main__":
    main()
