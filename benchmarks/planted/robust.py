"""Which recipe withstands every kind of nuisance? Rows of one recipe on all planted cohorts, on many cores.

    python -m benchmarks.planted.robust --jobs 16 --seeds 0-4 --out robust.csv                       # resumes
    python -m benchmarks.planted.robust --rows "SLPD, center, offset" --cohorts "slide shift" --seeds 0 --out robust.csv
    python -m benchmarks.planted.robust --cohorts "colon pairs shift" --tiles tiles.npz --out robust.csv
    python -m benchmarks.planted.robust --out robust.csv --table                                     # means per cohort

A row is an objective (`mean tokens`, `DINO`, `SLPD`) and any of the words in `NORMALISATIONS` and `CHANGES`, separated
by commas; or a recipe as it is shipped, with all that it chooses from the cohort (`recipe robust`, `recipe auto`), and
words of `CHANGES`. Each unit (cohort, row, seed) draws its cohort, trains, measures and adds one line to the file, in
one write, so that the program can be stopped at any time. The longest units start first, or seed by seed with
`--by-seed`. Seeds below 10 are for choosing. `COMPARISONS` was fixed before any row was run on a seed from 10 on:

    python -m benchmarks.planted.robust --confirm --jobs 16 --out robust.csv
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.planted import ablate
from benchmarks.planted import report as ablate_report
from benchmarks.planted.cohorts import CACHE, DrawsTokens, Planted, TokenModel, Truth, plan, write_cohort, write_slides
from benchmarks.semireal.cohorts import TILE_COHORTS, TileModel
from benchmarks.semireal.tiles import Tiles
from slpd_toolkit.commands import pretrain
from slpd_toolkit.config.pretrain import PretrainConfig
from slpd_toolkit.config.recipe import build, find_recipe, read_recipe, stage_of
from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.heads.fold_predictions import run_folds
from slpd_toolkit.mil.statistics.paired_tests import corrected_t_test, holm
from slpd_toolkit.models.region_vit import REGION_VIT, RegionViT
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.stain_folders import stain_folder
from slpd_toolkit.store.token_file import TokenStore
from slpd_toolkit.training.token_whitening import TokenMap, map_of_kinds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from benchmarks.planted.cohorts import IntArray

    Slides = list[NDArray[np.float32]]
    """(R, grid, grid, D) tokens of each slide."""

COLUMNS = ("cohort", "row", "seed", "cpu_s", "metrics")
MAIN_METRICS = ("regions knn", "prototypes nmi", "class prototype-histogram", "class abmil")

OBJECTIVES: dict[str, dict[str, Any]] = {
    "mean tokens": {},
    "DINO": ablate.NO_PROTOTYPES,
    "SLPD": {"intra_weight": 4.0, "inter_weight": 4.0, "clusters": 2},
    "SLPD published": {},
}
RECIPES = "recipe "
"""Rows of shipped recipes of `slpd pretrain`: the rest of the name is that of the recipe."""
CHANGES: dict[str, dict[str, Any]] = {
    "offset": {"region_offset": 0.7},
    "half offset": {"region_offset": 0.35},
    "fan-in": {"weight_init": "fan-in"},
    "cold": {"teacher_temp": 0.02},
    "masked block": {"block_mask": 0.3},
    "turns": {"quarter_turns": 1.0, "flip_up_down": 0.5},
    "masked": {"masked_weight": 1.0},
    "KoLeo": {"koleo_weight": 0.1},
    "registers": {"registers": 4},
    "no prototypes": ablate.NO_PROTOTYPES,
    "stain views": {"stain_views": 2},
    "twice": {},
}
"""Settings of `slpd pretrain` by word; `twice` doubles the number of epochs."""

RUNNING = {name: ablate.SETTINGS[name] for name in ("workers", "device", "precision", "save_every_min")}
SAMPLED_TOKENS = 65_536
SMOOTHING = 0.3
"""Fraction of the mean eigenvalue that is added to the covariance of slide means."""


def centered(slides: Slides) -> Slides:
    """Subtract the mean token of each slide."""
    return [slide - slide.mean(axis=(0, 1, 2), dtype=np.float32) for slide in slides]


def standardized(slides: Slides) -> Slides:
    """Also divide each feature by its standard deviation within the slide, relative to that of the cohort."""
    found = centered(slides)
    spreads = np.array([slide.std(axis=(0, 1, 2)) for slide in found])
    common = np.sqrt((spreads**2).mean(axis=0))
    scales = (common / np.maximum(spreads, 1e-6)).astype(np.float32)
    return [slide * scale for slide, scale in zip(found, scales, strict=True)]


def between(slides: Slides) -> NDArray[np.float64]:
    """Return the covariance of the mean tokens of slides, (D, D)."""
    return np.cov(np.array([slide.mean(axis=(0, 1, 2), dtype=np.float64) for slide in slides]).T, ddof=1)


def within(slides: Slides) -> NDArray[np.float64]:
    """Return the covariance of tokens within slides, (D, D)."""
    rows = np.concatenate([slide.reshape(-1, slide.shape[-1]) for slide in centered(slides)]).astype(np.float64)
    found: NDArray[np.float64] = rows.T @ rows / len(rows)
    return found


def without_directions(slides: Slides, count: int) -> Slides:
    """Remove the leading directions of the covariance of slide means (nuisance attribute projection)."""
    directions = np.linalg.eigh(between(slides))[1][:, -count:]
    kept = (np.eye(len(directions)) - directions @ directions.T).astype(np.float32)
    return [slide @ kept for slide in slides]


def power(matrix: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    found: NDArray[np.float64] = (vectors * np.maximum(values, 1e-9) ** exponent) @ vectors.T
    return found


def map_against(covariance: NDArray[np.float64], smoothing: float) -> NDArray[np.float64]:
    """Return the inverse root of a smoothed covariance, (D, D)."""
    smooth = covariance + smoothing * np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
    return power(smooth, -0.5)


def against_between(slides: Slides, smoothing: float = SMOOTHING) -> Slides:
    """Scale down directions in which slides differ (within-class covariance normalization, slides as sessions).

    The covariance of slide means is smoothed by a fraction of its mean eigenvalue; tokens have a mean variance of 1.
    """
    covariance = between(slides)
    matrix = map_against(covariance, smoothing)
    matrix /= np.sqrt(np.trace(matrix @ (within(slides) + covariance) @ matrix) / len(matrix))
    mean = np.mean([slide.mean(axis=(0, 1, 2)) for slide in slides], axis=0)
    return [(slide - mean) @ matrix.astype(np.float32) for slide in slides]


def kinds_map(slides: Slides) -> TokenMap:
    """Return the map of `--whitening within-kinds`, from a sample of tokens."""
    rng, per_slide = np.random.default_rng(0), SAMPLED_TOKENS // len(slides)
    return map_of_kinds([rng.permutation(slide.reshape(-1, slide.shape[-1]))[:per_slide] for slide in slides])


def within_kinds(slides: Slides) -> Slides:
    """Scale down directions in which tokens of the same kind (cluster) differ between slides."""
    found = kinds_map(slides)
    return [(slide - found.mean.numpy()) @ found.matrix.numpy() for slide in slides]


def whitened(slides: Slides) -> Slides:
    """Center, and whiten by the covariance of tokens within slides."""
    matrix = power(within(slides), -0.5).astype(np.float32)
    return [slide @ matrix for slide in centered(slides)]


NORMALISATIONS: dict[str, Callable[[Slides], Slides]] = {
    "center": centered,
    "standardize": standardized,
    "NAP 4": lambda slides: without_directions(slides, 4),
    "NAP 8": lambda slides: without_directions(slides, 8),
    "center, NAP 4": lambda slides: centered(without_directions(slides, 4)),
    "center, NAP 8": lambda slides: centered(without_directions(slides, 8)),
    "WCCN": against_between,
    "WCCN 1": lambda slides: against_between(slides, 1.0),
    "WCCN 3": lambda slides: against_between(slides, 3.0),
    "center, WCCN": lambda slides: centered(against_between(slides)),
    "kinds": within_kinds,
    "whiten": whitened,
}
"""Normalisation of tokens by word, fitted on all slides of the cohort, as `slpd pretrain` would."""


@dataclass(frozen=True)
class Row:
    """A parsed name of a row."""

    objective: str
    normalisation: str
    changes: tuple[str, ...]

    @classmethod
    def parse(cls, name: str) -> Row:
        """Parse a name such as "SLPD, center, offset".

        Raises:
            ValueError: A word is unknown.
            UsageError: There is no such recipe.
        """
        objective, *words = [word.strip() for word in name.split(",")]
        chosen = [word for word in words if word not in CHANGES]
        row = cls(objective, ", ".join(chosen), tuple(word for word in words if word in CHANGES))
        if row.recipe is not None:
            find_recipe(row.recipe, stage_of(PretrainConfig))
        if (row.recipe is None and objective not in OBJECTIVES) or row.normalisation not in ("", *NORMALISATIONS):
            raise ValueError(f"{name}: known are {', '.join((*OBJECTIVES, *NORMALISATIONS, *CHANGES))}")
        return row

    @property
    def recipe(self) -> Path | None:
        """The shipped recipe of the row; None for an objective with the settings of this driver."""
        return Path(self.objective.removeprefix(RECIPES)) if self.objective.startswith(RECIPES) else None

    @property
    def trains(self) -> bool:
        return self.objective != "mean tokens"


@dataclass(frozen=True)
class Unit:
    cohort: str
    row: str
    seed: int

    @property
    def cost(self) -> float:
        """Return the expected duration, relative to others."""
        row = Row.parse(self.row)
        length = {"arrangement": 6.0, "small shift": 2.5, "drift": 2.0}.get(self.cohort, 1.0)
        return length * (2 if "twice" in row.changes else 1) * (1.4 if "masked" in row.changes else 1) * row.trains


def settings_of(cohort: str, row: Row, seed: int) -> dict[str, Any]:
    """Return the settings of training."""
    if row.recipe is not None:
        recipe = read_recipe(PretrainConfig, row.recipe)
        changes = {name: value for change in row.changes for name, value in CHANGES[change].items()}
        auto = tuple(name for name in recipe["auto"] if name not in changes)
        return {**recipe, **RUNNING, "seed": seed, **changes, "auto": auto}
    settings = {**ablate.SETTINGS, **ablate.LONGER.get(cohort, {}), "seed": seed, **OBJECTIVES[row.objective]}
    for change in row.changes:
        settings |= CHANGES[change]
    if "twice" in row.changes:
        settings["epochs"], settings["prototype_epoch"] = 2 * settings["epochs"], 2 * settings["prototype_epoch"]
    return settings


@dataclass(frozen=True)
class Drawn:
    """Tokens of all slides, in place of a model that draws them."""

    slides: Slides

    def draw(self, slide: int, site: int, architectures: IntArray) -> NDArray[np.float32]:  # noqa: ARG002
        """See `DrawsTokens`."""
        return self.slides[slide]


def draw(planted: Planted, truth: Truth, model: DrawsTokens | None = None) -> Slides:
    """Draw the tokens of all slides."""
    model = model or TokenModel(planted)
    own = [truth.architecture[truth.slide_of_region == slide] for slide in range(planted.slides)]
    return [model.draw(slide, int(truth.sites[slide]), regions) for slide, regions in enumerate(own)]


def complete(unit: Unit, tiles_file: Path | None = None) -> tuple[Unit, float, dict[str, Any]]:
    """Train and measure a unit, in a temporary folder."""
    torch.set_num_threads(1)
    started, row = time.process_time(), Row.parse(unit.row)
    planted = Planted(**{**ablate.SIZE, **ablate.COHORTS[unit.cohort]}, seed=unit.seed)
    model: DrawsTokens | None = None
    stained: list[DrawsTokens] = []
    if unit.cohort in TILE_COHORTS:
        assert tiles_file is not None
        tiles = Tiles.read(tiles_file)
        planted = replace(planted, dim=tiles.tokens.shape[-1])
        model = TileModel(planted, tiles)
        if "stain views" in row.changes:
            stained = [TileModel(planted, tiles, view) for view in range(1, 1 + len(tiles.stained))]
    folder = Path(tempfile.mkdtemp(prefix="robust-"))
    try:
        truth = plan(planted)
        slides = draw(planted, truth, model)
        lost = np.array([slide.mean(axis=(0, 1, 2)) for slide in slides])
        if row.normalisation:
            slides = NORMALISATIONS[row.normalisation](slides)
        if row.trains:
            write_cohort(planted, folder, Drawn(slides))
            for view, drawn in enumerate(stained, start=1):
                write_slides(planted, truth, stain_folder(folder / CACHE, view), drawn)
            settings = settings_of(unit.cohort, row, unit.seed)
            config = build(PretrainConfig, {"cache": folder / CACHE, "out": folder / "run", **settings})
            pretrain.run(config)
            with closing(CohortTokens(TokenStore.open(folder / CACHE))) as tokens:
                features = ablate.embed(RegionViT.from_file(folder / "run" / REGION_VIT), tokens)
            of_run = ablate.of_the_run(folder / "run", truth, unit.seed)
        else:
            features, of_run = np.concatenate([slide.mean(axis=(1, 2)) for slide in slides]), {}
        measured = ablate.measure(features, truth, unit.seed, clusters=ablate.CLUSTERS) | of_run
        measured |= with_lost_means(features, lost, truth, unit.seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return unit, time.process_time() - started, measured


def with_lost_means(
    features: NDArray[np.float32], lost: NDArray[np.float32], truth: Truth, seed: int
) -> dict[str, list[float]]:
    """Measure the class by a linear probe on the mean embedding of a slide, with and without its mean token."""
    names = [str(slide) for slide in truth.slide_ids]
    means = np.array([features[rows].mean(axis=0) for rows in ablate.of_slides(truth)])
    task = ablate.tasks_of(truth)["class"]
    splits = cross_validation(Cohort(truth.slide_ids, truth.patients, task.strata), folds=ablate.FOLDS, seed=seed)
    found = {}
    for name, vectors in (("class mean token", lost), ("class probe + mean token", np.hstack([means, lost]))):
        bags = Bags.pack(dict(zip(names, vectors[:, None], strict=True)))
        folds = run_folds(bags, task, splits, "probe", training=ablate.HEADS, seed=seed, jobs=1)
        found[name] = [task.metrics(fold.rows, fold.outputs)[task.headline] for fold in folds]
    return found


def line_of(unit: Unit, cpu_s: float, metrics: dict[str, Any]) -> dict[str, Any]:
    """Return a line of the file; values per fold are averaged."""
    means = {name: round(float(np.nanmean(value)), 4) for name, value in metrics.items() if not np.isnan(value).all()}
    return dict(zip(COLUMNS, (unit.cohort, unit.row, unit.seed, round(cpu_s, 1), json.dumps(means)), strict=True))


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a line to the file in one write."""
    fresh = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if fresh:
            writer.writeheader()
        writer.writerow(line)


def read(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of the file, and remove a line that was cut off."""
    if not path.exists():
        return []
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        path.write_bytes(content[: content.rfind(b"\n") + 1])
    with path.open(newline="", encoding="utf-8") as file:
        rows = [dict(row) for row in csv.DictReader(file)]
    return [{**row, "seed": int(row["seed"]), "metrics": json.loads(row["metrics"])} for row in rows]


def run(
    out: Path,
    cohorts: Sequence[str],
    rows: Sequence[str],
    seeds: Sequence[int],
    jobs: int,
    tiles: Path | None = None,
    *,
    by_seed: bool = False,
    stop_after_s: float = float("inf"),
) -> None:
    """Complete all units that the file lacks; a unit that fails is reported and does not end the others.

    After `stop_after_s` seconds no further unit is started.
    """
    known = {(line["cohort"], line["row"], line["seed"]) for line in read(out)}
    units = [Unit(cohort, row, seed) for seed in seeds for cohort in cohorts for row in rows]
    left = [unit for unit in units if (unit.cohort, unit.row, unit.seed) not in known]
    left.sort(key=lambda unit: (unit.seed if by_seed else 0, -unit.cost))
    print(f"{len(left)} of {len(units)} units are left", flush=True)
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # of the workers
    started, failed = time.perf_counter(), 0
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=None) as pool:
        waiting, futures, done = iter(left), dict[Future[Any], Unit](), 0
        while True:
            late = time.perf_counter() - started > stop_after_s
            for unit in () if late else islice(waiting, jobs - len(futures)):
                futures[pool.submit(complete, unit, tiles)] = unit
            if not futures:
                break
            future = wait(futures, return_when=FIRST_COMPLETED).done.pop()
            unit = futures.pop(future)
            try:
                append(out, line_of(*future.result()))
            except Exception as error:  # noqa: BLE001 - reported, and the other units are worth having
                failed += 1
                print(f"failed: {unit}: {error!r}", file=sys.stderr, flush=True)
            done += 1
            if done % 20 == 0 or done == len(left):
                print(f"{done} of {len(left)}, {time.perf_counter() - started:.0f} s", flush=True)
    if failed:
        raise SystemExit(f"{failed} units failed")


def table(out: Path) -> str:
    """Return means over seeds per cohort and row, as Markdown."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in read(out):
        groups.setdefault((line["cohort"], line["row"]), []).append(line["metrics"])
    names = (*MAIN_METRICS, "class probe", "class probe + mean token", "last target_entropy")
    text = [f"| cohort | row | seeds | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]
    for (cohort, row), found in sorted(groups.items()):
        means = [[each[name] for each in found if name in each] for name in names]
        values = " | ".join(f"{np.mean(value):.2f}" if value else "" for value in means)
        text.append(f"| {cohort} | {row} | {len(found)} | {values} |")
    return "\n".join(text)


def numbers(text: str) -> list[int]:
    """Parse "0-4" or "7"."""
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


ROBUST = "recipe robust"
"""The recipe as it is shipped. The two before it, "SLPD, WCCN, offset, cold" and "SLPD, kinds, cold", are rows with the
settings of this driver."""
COMPARISONS = ((ROBUST, "mean tokens"), (ROBUST, "DINO"))
TESTED_COHORTS = ("slide shift", "small drift", "drift", "small shift", "arrangement", "waves", "composition")
TESTED_METRICS = ("regions knn", "prototypes nmi", "class prototype-histogram")
FIRST_TESTED_SEED = 10
"""The family of Holm's method: 2 comparisons x 7 cohorts x 3 metrics on the ten seeds from 10 on."""


def tests(out: Path) -> str:
    """Return the comparisons, paired by seed, with Holm's correction over all of them, as Markdown."""
    values: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    for line in read(out):
        if line["seed"] >= FIRST_TESTED_SEED:
            values.setdefault((line["cohort"], line["row"]), {})[line["seed"]] = line["metrics"]
    rows = []
    for cohort in TESTED_COHORTS:
        for one, other in COMPARISONS:
            ours, theirs = values.get((cohort, one), {}), values.get((cohort, other), {})
            seeds = sorted(ours.keys() & theirs.keys())
            for metric in TESTED_METRICS:
                pairs = np.array([(ours[seed][metric], theirs[seed][metric]) for seed in seeds])
                if len(pairs) < ablate_report.LEAST_SEEDS:
                    continue
                differences = pairs[:, 0] - pairs[:, 1]
                p_value = corrected_t_test(differences, test_train_ratio=0.0).p_value
                rows.append((cohort, other, metric, *pairs.mean(axis=0), (differences > 0).sum(), len(seeds), p_value))
    text = ["| cohort | against | metric | robust | other | seeds won | p | adjusted p |", "|---" * 8 + "|"]
    for row, adjusted in zip(rows, holm(np.array([row[-1] for row in rows], dtype=np.float64)), strict=True):
        cohort, other, metric, mine, its, won, count, p_value = row
        compared = f"{mine:.2f} | {its:.2f} | {won} of {count} | {p_value:.2g} | {adjusted:.2g}"
        text.append(f"| {cohort} | {other} | {metric} | {compared} |")
    return "\n".join(text)


DEFAULT_COHORTS = ("slide shift", "small drift", "drift", "small shift", "arrangement", "waves", "composition")
DEFAULT_ROWS = (
    *(f"mean tokens{word}" for word in ("", *(f", {name}" for name in NORMALISATIONS))),
    *(
        f"{objective}{words}"
        for objective in ("DINO", "SLPD")
        for words in (
            "",
            ", center",
            ", WCCN",
            ", center, WCCN",
            ", WCCN, offset",
            ", WCCN, cold",
            ", WCCN, fan-in, cold",
            ", WCCN, offset, fan-in, cold",
        )
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="CSV file with a line per finished unit")
    parser.add_argument("--cohorts", nargs="+", default=list(DEFAULT_COHORTS), choices=ablate.COHORTS)
    parser.add_argument("--rows", nargs="+", default=list(DEFAULT_ROWS), help="names of rows, each quoted")
    parser.add_argument("--seeds", nargs="+", type=numbers, default=[numbers("0-4")], help="0-4, or several numbers")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tiles", type=Path, help="output of benchmarks.semireal.tiles, for cohorts of tiles")
    parser.add_argument("--by-seed", action="store_true", help="complete the first seeds first")
    parser.add_argument("--stop-after-s", type=float, default=float("inf"), help="start no unit after these seconds")
    parser.add_argument("--confirm", action="store_true", help="run what COMPARISONS needs on seeds 10 to 19, and test")
    parser.add_argument("--table", action="store_true", help="only print the means of what the file contains")
    args = parser.parse_args()
    if args.confirm:
        args.rows, args.cohorts = list(dict.fromkeys(row for pair in COMPARISONS for row in pair)), list(TESTED_COHORTS)
        args.seeds, args.by_seed = [list(range(FIRST_TESTED_SEED, FIRST_TESTED_SEED + 10))], True
    for row in args.rows:
        Row.parse(row)
    if not args.tiles and set(args.cohorts) & set(TILE_COHORTS):
        parser.error("--tiles: cohorts of tiles need the output of benchmarks.semireal.tiles")
    if not args.table:
        run(
            args.out,
            args.cohorts,
            args.rows,
            [seed for part in args.seeds for seed in part],
            args.jobs,
            args.tiles,
            by_seed=args.by_seed,
            stop_after_s=args.stop_after_s,
        )
    print(table(args.out))
    print(tests(args.out))


if __name__ == "__main__":
    main()
