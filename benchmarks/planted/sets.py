"""Does matching prototype sets, SLPD's similarity, predict labels better than the cosine of mean embeddings?

    python -m benchmarks.planted.sets --out runs/sets --seeds 10 20 --report benchmarks/results
    python -m benchmarks.planted.sets --out runs/sets --seeds 10 15 --trained --report benchmarks/results

A seed is a cohort of its own with its own folds, which all descriptors share, so differences are paired by seed.
Measured is the AUC of the class over five folds by patient. Regions are means of tokens, or with `--trained` those of a
region ViT trained with SLPD, once in the space of region embeddings and once in the bottleneck, where training matches
slides. Completed units are skipped.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import stats

from benchmarks.planted.ablate import (
    CLUSTERS,
    FOLDS,
    HEADS,
    MEAN,
    Unit,
    of_slides,
    planted_of,
    represent,
    tasks_of,
    training_of,
)
from benchmarks.planted.cohorts import write_cohort
from slpd_toolkit.commands import pretrain
from slpd_toolkit.core.files import write_text
from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.descriptors.descriptor import ChosenDescriptor
from slpd_toolkit.mil.heads.fold_predictions import run_folds
from slpd_toolkit.mil.statistics.paired_tests import holm
from slpd_toolkit.training.prototype_file import PrototypeFile
from slpd_toolkit.training.run_folder import PROTOTYPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.planted.cohorts import Truth

SLPD = "SLPD matched"
COHORTS = ("small drift", "drift", "small shift")
PLANS = {
    "cosine of means, K-NN": ("mean", "set-knn"),
    "matching, K-NN": ("prototypes", "set-knn"),
    "cosine of means, probe": ("mean", "set-probe"),
    "matching, probe": ("prototypes", "set-probe"),
    "mean": ("mean", "probe"),
    "mean and spread": ("mean-sd", "probe"),
    "histogram": ("histogram", "probe"),
    "mixture": ("mixture", "probe"),
    "transport": ("transport", "probe"),
}
"""Descriptor and aggregator of each row."""
PAIRS = (
    ("matching, K-NN", "cosine of means, K-NN"),
    ("matching, probe", "cosine of means, probe"),
    *((name, "mean") for name in ("mean and spread", "histogram", "mixture", "transport", "matching, probe")),
)


def bags_of(unit: Unit, truth: Truth) -> Iterator[tuple[str, Bags, Sequence[str]]]:
    """Yield a name of the regions, their bags and the rows to measure."""
    names = [str(slide) for slide in truth.slide_ids]
    features = represent(unit, truth)
    regions = Bags.pack(dict(zip(names, (features[rows] for rows in of_slides(truth)), strict=True)))
    yield "regions", regions, list(PLANS)
    if unit.row == MEAN:
        return
    file = PrototypeFile.read(unit.run_folder / PROTOTYPES)
    counts = np.zeros(file.prototypes.shape[:2])
    kept = file.region_row >= 0
    np.add.at(counts, (file.region_row[kept], file.region_cluster[kept]), 1)
    sets, weights = file.prototypes, (counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)
    slides, k = sets.shape[:2]
    yield (
        "bottleneck",
        Bags(tuple(map(str, file.slide_ids)), sets.reshape(slides * k, -1), np.arange(slides + 1) * k, weights.ravel()),
        list(PLANS)[:4],
    )


def measure(unit: Unit) -> dict[str, float]:
    """Train if needed, and return the mean AUC of each row."""
    torch.set_num_threads(1)
    truth = write_cohort(planted_of(unit), unit.data)
    if unit.row != MEAN:
        pretrain.run(training_of(unit))
    found = {}
    for space, bags, rows in bags_of(unit, truth):
        task, index = tasks_of(truth)["class"], [truth.slide_ids.tolist().index(slide) for slide in bags.slides]
        task = type(task)(task.classes, task.targets[index])  # type: ignore[attr-defined,call-arg]  # a classification
        cohort = Cohort(np.array(bags.slides), truth.patients[index], task.strata)
        splits = cross_validation(cohort, folds=FOLDS, seed=unit.seed)
        for row in rows:
            name, aggregator = PLANS[row]
            used = bags
            descriptor = ChosenDescriptor(name, CLUSTERS if name == "prototypes" else 0)
            if bags.weights is not None:  # sets already
                used = bags if name == "prototypes" else Bags(bags.slides, bags.mean(), np.arange(len(bags.slides) + 1))
            fold_descriptor = None if bags.weights is not None else descriptor
            folds = run_folds(
                used, task, splits, aggregator, descriptor=fold_descriptor, training=HEADS, seed=unit.seed, jobs=1
            )
            found[f"{space}: {row}"] = float(np.mean([task.metrics(f.rows, f.outputs)["auc"] for f in folds]))
    return found


def report(out: Path, into: Path, command: str) -> None:
    """Write set-similarity.json and .md from all completed units."""
    units: list[dict[str, Any]] = [json.loads(path.read_text()) for path in sorted(out.rglob("sets-*.json"))]
    groups: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    for unit in units:
        groups.setdefault((unit["cohort"], unit["row"]), []).append(unit["auc"])
    lines = [
        "# Does matching prototype sets predict labels better than the cosine of means?",
        "",
        f"Planted cohorts, AUC of the class, five folds by patient; differences paired by seed. `{command}`",
        "",
        "p: two-sided t-test over seeds, adjusted by Holm's method within each cohort and space.",
    ]
    tables = []
    for (cohort, row), aucs in groups.items():
        for space in ("regions", "bottleneck"):
            pairs = [pair for pair in PAIRS if f"{space}: {pair[0]}" in aucs[0] and f"{space}: {pair[1]}" in aucs[0]]
            if not pairs:
                continue
            values = [[np.array([auc[f"{space}: {name}"] for auc in aucs]) for name in pair] for pair in pairs]
            differences = [one - other for one, other in values]
            raw = np.array([stats.ttest_1samp(each, 0).pvalue for each in differences])
            lines += ["", f"## {cohort}, {row}, {space}: {len(aucs)} seeds", ""]
            lines += [
                "| first | second | AUC first | AUC second | difference | 95 % interval | p |",
                "|---|---|---|---|---|---|---|",
            ]
            for (first, second), (one, other), each, p in zip(pairs, values, differences, holm(raw), strict=True):
                half = stats.t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / np.sqrt(len(each))
                mean = each.mean()
                lines.append(
                    f"| {first} | {second} | {one.mean():.3f} | {other.mean():.3f} | {mean:+.3f} | "
                    f"[{mean - half:+.3f}, {mean + half:+.3f}] | {p:.3f} |"
                )
                tables.append(
                    {"cohort": cohort, "row": row, "space": space, "first": first, "second": second, "seeds": len(each),
                     "auc_first": round(float(one.mean()), 4), "auc_second": round(float(other.mean()), 4),
                     "difference": round(float(mean), 4), "low": round(float(mean - half), 4),
                     "high": round(float(mean + half), 4), "p_adjusted": round(float(p), 5)}
                )  # fmt: skip
    write_text(into / "set-similarity.md", "\n".join(lines) + "\n")
    cpu = round(sum(unit["cpu_s"] for unit in units), 1)
    write_text(into / "set-similarity.json", json.dumps({"command": command, "cpu_s": cpu, "rows": tables}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of cohorts, runs and results")
    parser.add_argument("--cohorts", nargs="+", default=list(COHORTS))
    parser.add_argument("--seeds", nargs=2, type=int, default=(10, 20), help="first seed, and the one after the last")
    parser.add_argument("--trained", action="store_true", help="train a region ViT with SLPD instead of token means")
    parser.add_argument("--report", type=Path, help="folder for set-similarity.json and .md of all that is there")
    args = parser.parse_args()
    for seed in range(*args.seeds):
        for cohort in args.cohorts:
            unit = Unit(args.out, cohort, seed, SLPD if args.trained else MEAN)
            path = unit.data / f"sets-{unit.row.replace(' ', '-')}.json"
            if path.exists():
                continue
            started = time.process_time()
            auc = measure(unit)
            cpu = time.process_time() - started
            write_text(
                path, json.dumps({"cohort": cohort, "row": unit.row, "seed": seed, "cpu_s": round(cpu, 1), "auc": auc})
            )
            print(
                cohort,
                unit.row,
                seed,
                f"{cpu:.1f} CPU s",
                {name: round(value, 3) for name, value in auc.items()},
                flush=True,
            )
    if args.report:
        report(args.out, args.report, shlex.join(["python", "-m", "benchmarks.planted.sets", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
