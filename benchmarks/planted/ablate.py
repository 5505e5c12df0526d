"""Does SLPD help? Ablation of the objective on planted cohorts, with the same folds and seeds for every variant.

    python -m benchmarks.planted.ablate --out runs/ablate --jobs 2      # main rows, 5 seeds; resumes
    python -m benchmarks.planted.ablate --out runs/ablate --rows sensitivity --seeds 0 2 --report benchmarks/results

Each seed determines a separate cohort, and the weights, order and folds; all rows of a seed share them. Differences
between two rows are therefore paired by seed, and seeds are independent. Measurements of a frozen region ViT:

- regions: balanced accuracy of the true architecture, by a logistic probe and by nearest neighbors from other patients.
  Each patient is either in train or in test, with similar mixtures of architectures in both. Also for the two parts of
  the architecture: which kinds share a region, and how they are arranged.
- prototypes: normalized mutual information of the k-means clusters of each slide with the true architecture, averaged
  over slides.
- slides: class, grade and survival by the aggregators of `slpd mil-eval`, cross-validated by patient, with all and with
  a quarter of the training patients.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import joblib
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, normalized_mutual_info_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from benchmarks.planted.cohorts import CACHE, Planted, Truth, write_cohort, write_slides
from benchmarks.planted.report import write_report
from benchmarks.semireal.cohorts import TILE_COHORTS, TILE_RUNS, TileModel
from benchmarks.semireal.tiles import Tiles
from slpd_toolkit.commands import pretrain
from slpd_toolkit.config.pretrain import PretrainConfig
from slpd_toolkit.config.recipe import build
from slpd_toolkit.core.files import write_text
from slpd_toolkit.core.vectors import kmeans
from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.cohort.training_subsets import keep_fraction
from slpd_toolkit.mil.heads.fold_predictions import run_folds
from slpd_toolkit.mil.heads.training import HeadTraining
from slpd_toolkit.mil.tasks.kinds.classification import Classification
from slpd_toolkit.mil.tasks.kinds.ordinal import Ordinal
from slpd_toolkit.mil.tasks.kinds.survival import Survival
from slpd_toolkit.models.region_vit import REGION_VIT, RegionViT
from slpd_toolkit.objectives.slide_prototypes import PrototypeBank, PrototypeTargets
from slpd_toolkit.store.centered_tokens import CenteredTokens
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.stain_folders import stain_folder
from slpd_toolkit.store.token_file import TokenStore
from slpd_toolkit.training.metrics_file import read_metrics
from slpd_toolkit.training.prototype_file import PrototypeFile
from slpd_toolkit.training.run_folder import METRICS, PROTOTYPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from slpd_toolkit.mil.tasks.task import Task

SIZE: dict[str, Any] = {"slides": 64, "regions": 24.0, "grid": 8, "dim": 64, "noise": 1.0}
_KINDS: dict[str, Any] = {"pairings": 3, "scales": (1.0,)}
_DRIFT: dict[str, Any] = {"drift": 2.0, "drift_scale": 1.5}
_SMALL: dict[str, Any] = _KINDS | {"slides": 40, "regions": 20.0, "grid": 6, "dim": 48, "drift_scale": 1.2}
COHORTS: dict[str, dict[str, Any]] = {
    "drift": _KINDS | _DRIFT | {"region_shift": 0.3, "slide_shift": 0.3, "site_shift": 0.2},
    "drift and shift": _KINDS | _DRIFT | {"region_shift": 0.7, "slide_shift": 0.7, "site_shift": 0.5},
    "small drift": _SMALL | {"drift": 1.5, "region_shift": 0.3, "slide_shift": 0.3, "site_shift": 0.2},
    "shift": _KINDS | {"drift": 0.5, "region_shift": 1.0, "slide_shift": 0.3, "site_shift": 0.3},
    "slide shift": _SMALL | {"drift": 1.5, "region_shift": 0.3, "slide_shift": 1.0, "site_shift": 0.2},
    "small shift": _SMALL | {"drift": 0.5, "region_shift": 1.0, "slide_shift": 0.3, "site_shift": 0.3},
    "arrangement": {
        "kinds": 2,
        "pairings": 1,
        "scales": (0.0, 2.0),
        "noise": 0.1,
        "region_shift": 0.0,
        "slide_shift": 0.0,
        "site_shift": 0.0,
        "drift": 0.0,
    },
    **TILE_COHORTS,
    "waves": _SMALL
    | {
        "drift": 0.5,
        "wave": 1.0,
        "gain": 0.3,
        "tails": 3.0,
        "region_shift": 0.2,
        "slide_shift": 0.7,
        "site_shift": 0.3,
    },
    "composition": _SMALL
    | {"composition": True, "drift": 1.5, "region_shift": 0.3, "slide_shift": 0.3, "site_shift": 0.2},
}
"""Parameters of `Planted` per cohort: how architectures differ, and the nuisance."""

SETTINGS: dict[str, Any] = {
    "epochs": 16,
    "batch_size": 64,
    "clusters": 4,
    "min_regions": 8,
    "prototype_epoch": 8,
    "global_side": 5,
    "local_side": 3,
    "local_crops": 4,
    "embed_dim": 64,
    "depth": 2,
    "heads": 4,
    "mlp_ratio": 2.0,
    "drop_path": 0.0,
    "hidden_dim": 128,
    "bottleneck_dim": 64,
    "out_dim": 256,
    "lr": 0.004,
    "warmup_epochs": 2,
    "teacher_momentum": 0.99,
    "weight_decay_end": 0.1,
    "workers": 1,
    "device": "cpu",
    "precision": "fp32",
    "save_every_min": 60.0,
}
"""Default settings of every row: a network and a run that take half a CPU minute."""

_SMALL_RUN: dict[str, Any] = {
    "epochs": 26,
    "batch_size": 40,
    "prototype_epoch": 10,
    "global_side": 4,
    "local_side": 2,
    "embed_dim": 48,
    "hidden_dim": 96,
    "bottleneck_dim": 48,
    "lr": 0.006,
    "teacher_momentum": 0.98,
}
"""A smaller network on a smaller cohort, for 26 epochs: the same number of steps in less time."""
LONGER: dict[str, dict[str, Any]] = {
    "small drift": _SMALL_RUN,
    "slide shift": _SMALL_RUN,
    "waves": _SMALL_RUN,
    "composition": _SMALL_RUN,
    "small shift": _SMALL_RUN | {"epochs": 60, "prototype_epoch": 23},
    "arrangement": {"epochs": 48, "prototype_epoch": 24, "global_side": 6, "local_side": 4, "local_crops": 2},
    **TILE_RUNS,
}
"""Changes of `SETTINGS` per cohort."""

NO_PROTOTYPES = {"intra_weight": 0.0, "inter_weight": 0.0}
MAIN: dict[str, dict[str, Any]] = {
    "DINO": NO_PROTOTYPES,
    "DINO + intra": {"inter_weight": 0.0},
    "DINO + inter": {"intra_weight": 0.0},
    "SLPD matched": {},
    "SLPD nearest": {"correspondence": "nearest"},
    "SLPD weights 4": {"intra_weight": 4.0, "inter_weight": 4.0},
    "SLPD shuffled": {},
    "SLPD weights 4 shuffled": {"intra_weight": 4.0, "inter_weight": 4.0},
}
SHUFFLED = ("SLPD shuffled", "SLPD weights 4 shuffled", "SLPD weights 4 shuffled centered")
"""Controls: each region is pulled towards the prototypes of another one, so that any gain is not due to prototypes."""
_WEIGHTS_4 = {"intra_weight": 4.0, "inter_weight": 4.0}
SENSITIVITY: dict[str, dict[str, Any]] = {
    "DINO teacher temp 0.07": NO_PROTOTYPES | {"teacher_temp": 0.07},
    "DINO out 8192": NO_PROTOTYPES | {"out_dim": 8192},
    "DINO out 65536": NO_PROTOTYPES | {"out_dim": 65536},
    "SLPD weights 4 out 8192": _WEIGHTS_4 | {"out_dim": 8192},
    "SLPD weights 4 out 65536": _WEIGHTS_4 | {"out_dim": 65536},
    "SLPD weights 4 K 2": _WEIGHTS_4 | {"clusters": 2},
    "SLPD weights 4 K 8": _WEIGHTS_4 | {"clusters": 8},
    "SLPD weights 4 from epoch 1": _WEIGHTS_4 | {"prototype_epoch": 1},
    "SLPD weights 4 from epoch 5": _WEIGHTS_4 | {"prototype_epoch": 5},
    "SLPD weights 4 from epoch 18": _WEIGHTS_4 | {"prototype_epoch": 18},
    "SLPD weights 16": {"intra_weight": 16.0, "inter_weight": 16.0},
    "SLPD weights 4 two neighbours": _WEIGHTS_4 | {"neighbours": 2},
    "SLPD weights 4 backbone clusters": _WEIGHTS_4 | {"cluster_features": "backbone"},
}
CENTERED: dict[str, dict[str, Any]] = {
    f"{row} centered": {**MAIN[row], "centering": "slide"}
    for row in ("DINO", "SLPD matched", "SLPD weights 4", "SLPD weights 4 shuffled")
}
"""The mean token of the slide is subtracted, which removes overall differences between slides."""
VIEWS: dict[str, dict[str, Any]] = {
    f"{name} {change}": {**terms, **settings}
    for change, settings in (
        ("token offset 0.5", {"token_offset": 0.5}),
        ("token noise 0.5", {"token_noise": 0.5}),
        ("token dropout 0.3", {"token_dropout": 0.3}),
        ("block mask 0.3", {"block_mask": 0.3}),
        ("quarter turns", {"quarter_turns": 1.0}),
        ("smaller global crops", {"global_side": 3}),
    )
    for name, terms in (("DINO", NO_PROTOTYPES), ("SLPD", {}))
}
_FAN_IN, _REGION_OFFSET, _COLD = {"weight_init": "fan-in"}, {"region_offset": 0.7}, {"teacher_temp": 0.02}
REMEDIES: dict[str, dict[str, Any]] = {
    f"{name} {change}": {**terms, **settings}
    for change, settings in (
        ("region offset", _REGION_OFFSET),
        ("fan-in", _FAN_IN),
        ("fan-in, region offset", _FAN_IN | _REGION_OFFSET),
        ("teacher temp 0.02", _COLD),
        ("fan-in, teacher temp 0.02", _FAN_IN | _COLD),
    )
    for name, terms in (("DINO", NO_PROTOTYPES), ("SLPD", {}), ("SLPD weights 4", _WEIGHTS_4))
}
"""Settings that helped on seed 0 where the published ones did not."""
STAINS: dict[str, dict[str, Any]] = {
    f"{row} stain views": {**MAIN[row], "stain_views": 2} for row in ("DINO", "SLPD matched", "SLPD weights 4")
}
"""For cohorts of tiles that were also encoded under random stain (`benchmarks.semireal.tiles --stain-views 2`)."""
ROWS = {**MAIN, **STAINS, **SENSITIVITY, **VIEWS, **REMEDIES, **CENTERED}

TRUTH_ROW, MEAN, UNTRAINED, UNTRAINED_FAN_IN = "truth", "mean tokens", "untrained", "untrained fan-in"
MEAN_CENTERED = "mean tokens centered"
BASELINES = (TRUTH_ROW, MEAN, MEAN_CENTERED, UNTRAINED, UNTRAINED_FAN_IN)
FOLDS = 5
CLUSTERS = 4
"""Number of clusters per slide in the measurements, independent of the number in training."""
REGION_FOLDS = 4
NEIGHBOURS = 10
FRACTION = 0.25
HEADS = HeadTraining(steps=200, patience=4)
MEASURED = ("knn", "probe", "prototype-histogram")
ATTENTION = "abmil"
"""Predicts only the class, because it takes longer than all others."""
FEW_LABELS = ("probe", "prototype-histogram")
TILES = "tiles.npz"
"""Encoded tiles (`benchmarks.semireal.tiles`), in the folder of cohorts."""
_REGIONS_AT_ONCE = 256


@dataclass(frozen=True)
class Unit:
    """One row for one seed of one cohort: the unit of training, measurement and storage."""

    root: Path
    cohort: str
    seed: int
    row: str

    @property
    def data(self) -> Path:
        return self.root / self.cohort.replace(" ", "-") / f"seed{self.seed}"

    @property
    def run_folder(self) -> Path:
        return self.data / "runs" / self.row.replace(" ", "-")

    @property
    def result(self) -> Path:
        return self.data / f"{self.row.replace(' ', '-')}.json"


def planted_of(unit: Unit) -> Planted:
    return Planted(**{**SIZE, **COHORTS[unit.cohort]}, seed=unit.seed)


def write_data(unit: Unit) -> Truth:
    """Write the cohort of a unit, from encoded tiles if it needs them, and return its truth."""
    planted = planted_of(unit)
    if unit.cohort not in TILE_COHORTS:
        return write_cohort(planted, unit.data)
    tiles = Tiles.read(unit.root / TILES)
    planted = replace(planted, dim=tiles.tokens.shape[-1])
    truth = write_cohort(planted, unit.data, TileModel(planted, tiles))
    for view in range(1, 1 + len(tiles.stained)):
        write_slides(planted, truth, stain_folder(unit.data / CACHE, view), TileModel(planted, tiles, view))
    return truth


def settings_of(unit: Unit) -> dict[str, Any]:
    return {**SETTINGS, **LONGER.get(unit.cohort, {}), "seed": unit.seed, **ROWS.get(unit.row, {})}


def training_of(unit: Unit) -> PretrainConfig:
    return build(PretrainConfig, {"cache": unit.data / CACHE, "out": unit.run_folder, **settings_of(unit)})


def complete(unit: Unit) -> None:
    """Train and measure a unit, unless its result exists."""
    if unit.result.exists():
        return
    torch.set_num_threads(1)
    truth = write_data(unit)
    started, started_cpu = time.perf_counter(), time.process_time()
    if unit.row not in BASELINES:
        with shuffled_prototypes(unit.seed) if unit.row in SHUFFLED else nullcontext():
            pretrain.run(training_of(unit))
    trained, trained_cpu = time.perf_counter(), time.process_time()
    measured = measure(represent(unit, truth), truth, unit.seed, clusters=CLUSTERS)
    found = {
        "cohort": unit.cohort,
        "seed": unit.seed,
        "row": unit.row,
        "training_wall_s": round(trained - started, 1),
        "training_cpu_s": round(trained_cpu - started_cpu, 1),
        "measuring_cpu_s": round(time.process_time() - trained_cpu, 1),
        "metrics": {**measured, **({} if unit.row in BASELINES else of_the_run(unit.run_folder, truth, unit.seed))},
    }
    write_text(unit.result, json.dumps(found, indent=1))


@contextmanager
def shuffled_prototypes(seed: int) -> Iterator[None]:
    """Assign to each region of a batch the prototypes of another one, within the block."""
    find, rng = PrototypeBank.targets, torch.Generator().manual_seed(seed)

    def targets(bank: PrototypeBank, regions: Tensor) -> PrototypeTargets:
        return find(bank, regions[torch.randperm(len(regions), generator=rng)])

    with patch.object(PrototypeBank, "targets", targets):
        yield


def represent(unit: Unit, truth: Truth) -> NDArray[np.float32]:
    """Return the embeddings of all regions, (R, E), by the model of a unit."""
    if unit.row == TRUTH_ROW:
        return np.eye(len(truth.pairing), dtype=np.float32)[truth.architecture]
    store = TokenStore.open(unit.data / CACHE)
    if unit.row == MEAN:
        return np.concatenate([slide.tokens.mean(axis=(1, 2), dtype=np.float32) for slide in store.files])
    if unit.row == MEAN_CENTERED:
        centered = CenteredTokens(store, CohortTokens(store))
        means: NDArray[np.float32] = centered.read(np.arange(len(centered))).float().mean(dim=(1, 2)).numpy()
        return means
    if unit.row in (UNTRAINED, UNTRAINED_FAN_IN):
        config = replace(training_of(unit).region_vit, weight_init="published" if unit.row == UNTRAINED else "fan-in")
        network = RegionViT(
            config,
            torch.Generator().manual_seed(unit.seed),
            input_dim=store.embedding_dim,
            grid=settings_of(unit)["global_side"],
        ).eval()
    else:
        network = RegionViT.from_file(unit.run_folder / REGION_VIT)
    tokens = CohortTokens(store)
    return embed(network, CenteredTokens(store, tokens) if network.config.centering == "slide" else tokens)


@torch.inference_mode()
def embed(network: RegionViT, tokens: CohortTokens) -> NDArray[np.float32]:
    """Embed whole regions, (R, E)."""
    parts = np.array_split(np.arange(len(tokens)), max(1, len(tokens) // _REGIONS_AT_ONCE))
    embedded: list[Tensor] = [network(tokens.read(part)) for part in parts]
    found: NDArray[np.float32] = torch.cat(embedded).numpy()
    return found


def measure(features: NDArray[np.float32], truth: Truth, seed: int, *, clusters: int) -> dict[str, Any]:
    """Run all measurements on (R, E) region embeddings: name -> value, or values per fold."""
    return {
        **regions(features, truth),
        "prototypes nmi": purity(slide_clusters(features, truth, clusters, seed), truth),
        **slides(features, truth, seed),
    }


def regions(features: NDArray[np.float32], truth: Truth) -> dict[str, float]:
    """Measure the balanced accuracy of the architecture, of the kinds that share a region, and of their arrangement."""
    patients = truth.patients[truth.slide_of_region]
    scaled = StandardScaler().fit_transform(features)
    probed = np.empty_like(truth.architecture)
    for train, test in StratifiedGroupKFold(REGION_FOLDS).split(scaled, truth.architecture, patients):
        model = LogisticRegression(C=0.1, max_iter=500, class_weight="balanced")
        probed[test] = model.fit(scaled[train], truth.architecture[train]).predict(scaled[test])
    unit = scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-12)
    likeness = unit @ unit.T
    likeness[patients[:, None] == patients] = -np.inf
    nearest = np.argpartition(-likeness, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    one_hot = np.eye(len(truth.pairing))[truth.architecture]
    voted = one_hot[nearest].sum(axis=1).argmax(axis=1)
    pair = np.unique(truth.kinds, axis=0, return_inverse=True)[1].ravel()
    found = {}
    for name, predicted in (("probe", probed), ("knn", voted)):
        for part, of in (("", np.arange(len(pair))), (" kinds", pair), (" arrangement", truth.scale)):
            wanted = of[truth.architecture]
            if len(np.unique(wanted)) > 1:
                found[f"regions {name}{part}"] = float(balanced_accuracy_score(wanted, of[predicted]))
    return found


def slide_clusters(features: NDArray[np.float32], truth: Truth, clusters: int, seed: int) -> NDArray[np.int64]:
    """Cluster the regions of each slide by k-means, (R,); -1 on slides with fewer than two regions per cluster."""
    assigned = np.full(len(features), -1)
    for rows in of_slides(truth):
        if len(rows) >= 2 * clusters:
            assigned[rows] = kmeans(features[rows], clusters, seed=seed)[1]
    return assigned


def purity(clusters: NDArray[np.int64], truth: Truth) -> float:
    """Compute normalized mutual information with the true architecture, averaged over slides with clusters."""
    pairs = [(truth.architecture[rows], clusters[rows]) for rows in of_slides(truth) if clusters[rows[0]] >= 0]
    return float(np.mean([normalized_mutual_info_score(*pair) for pair in pairs]))


def chance(clusters: NDArray[np.int64], truth: Truth, seed: int) -> float:
    """Compute `purity` of the same clusters, permuted within each slide."""
    rng, dealt = np.random.default_rng(seed), clusters.copy()
    for rows in of_slides(truth):
        dealt[rows] = rng.permutation(dealt[rows])
    return purity(dealt, truth)


def of_slides(truth: Truth) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of the regions of each slide."""
    sizes = np.bincount(truth.slide_of_region, minlength=len(truth.slide_ids))
    yield from np.split(np.arange(len(truth.architecture)), sizes.cumsum()[:-1])


def slides(features: NDArray[np.float32], truth: Truth, seed: int) -> dict[str, list[float]]:
    """Measure the headline metric of each fold, for each target and aggregator."""
    names = [str(slide) for slide in truth.slide_ids]
    bags = Bags.pack(dict(zip(names, (features[rows] for rows in of_slides(truth)), strict=True)))
    found = {}
    for target, task in tasks_of(truth).items():
        cohort = Cohort(truth.slide_ids, truth.patients, task.strata)
        splits = cross_validation(cohort, folds=FOLDS, seed=seed)
        few = keep_fraction(splits, cohort, FRACTION, seed=seed)
        names_of = (*MEASURED, *([ATTENTION] if target == "class" else []))
        plans = [(name, splits, "") for name in names_of] + [(name, few, f" {FRACTION:.0%}") for name in FEW_LABELS]
        for aggregator, used, suffix in plans:
            folds = run_folds(bags, task, used, aggregator, training=HEADS, seed=seed, jobs=1)
            values = [task.metrics(fold.rows, fold.outputs)[task.headline] for fold in folds]
            found[f"{target} {aggregator}{suffix}"] = values
    return found


def tasks_of(truth: Truth) -> dict[str, Task]:
    label = Classification(("a", "b"), (truth.label == "b").astype(np.int64))
    grade = Ordinal(("1", "2", "3"), truth.grade - 1)
    return {"class": label, "grade": grade, "survival": Survival(truth.time, truth.event == 1, bins=3)}


def of_the_run(folder: Path, truth: Truth, seed: int) -> dict[str, float]:
    """Measure the purity of the final prototypes, their purity by chance, and the final losses."""
    clusters = PrototypeFile.read(folder / PROTOTYPES).region_cluster
    last = read_metrics(folder / METRICS)[-1]
    names = ("dino", "intra", "inter", "target_entropy", "centre_norm", "clusters_degenerate")
    return {
        "prototypes nmi bottleneck": purity(clusters, truth),
        "prototypes nmi chance": chance(clusters, truth, seed),
        **{f"last {name}": float(last[name]) for name in names if last[name]},
    }


def run(out: Path, cohorts: Sequence[str], seeds: Sequence[int], rows: Sequence[str], jobs: int) -> None:
    """Complete all units, seed by seed, so that the results of an interrupted run can be compared."""
    units = [Unit(out, cohort, seed, row) for seed in seeds for cohort in cohorts for row in rows]
    left = [unit for unit in units if not unit.result.exists()]
    print(f"{len(left)} of {len(units)} units are left")
    for cohort in cohorts:  # before the workers start, so that they do not write the same files
        for seed in seeds:
            write_data(Unit(out, cohort, seed, MEAN))
    joblib.Parallel(jobs, verbose=5)(joblib.delayed(complete)(unit) for unit in left)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of cohorts, runs and results")
    parser.add_argument("--cohorts", nargs="+", default=["small drift"], choices=COHORTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10, 15)))
    parser.add_argument(
        "--rows", nargs="+", default=["main"], help="`main`, `sensitivity`, `views`, `remedies`, `none`, or names"
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--tiles", type=Path, help="encoded tiles for the colon cohorts; copied to the folder")
    parser.add_argument(
        "--report", type=Path, help="folder to write planted.json, .csv, .svg and tuning.csv of all that is there to"
    )
    args = parser.parse_args()
    groups = {
        "main": [*BASELINES, *MAIN],
        "sensitivity": list(SENSITIVITY),
        "views": list(VIEWS),
        "remedies": list(REMEDIES),
        "centered": [MEAN_CENTERED, *CENTERED],
        "none": [],
    }
    rows = [row for name in args.rows for row in groups.get(name, [name])]
    if args.tiles:
        args.out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(args.tiles, args.out / TILES)
    run(args.out, args.cohorts, args.seeds, rows, args.jobs)
    if args.report:
        settings = {"size": SIZE, "cohorts": COHORTS, "training": SETTINGS, "longer": LONGER, "rows": ROWS}
        write_report(
            args.out,
            args.report,
            f"python -m benchmarks.planted.ablate {shlex.join(sys.argv[1:])}",
            settings,
            [*BASELINES, *ROWS],
        )


if __name__ == "__main__":
    main()
