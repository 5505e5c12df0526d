"""Does a slide ViT see how the regions of a slide lie to one another, which descriptors cannot?

    python -m benchmarks.planted.slide_vit --out runs/slide-vit --seeds 0 5 --report benchmarks/results
    python -m benchmarks.planted.slide_vit --out runs/slide-vit --seeds 0 8 --tune 100 102 --jobs 16 --report results

Slides are sets of regions with places, and classes have the same composition. Each region has one of four kinds, and
the shares of the kinds are drawn per slide, independently of the class. In `nests`, the kinds of a slide of one class
lie in nests, those of the other are shuffled. In `neighbors`, all kinds lie in nests; the class determines
which kinds touch: 0-1-2-3 or 0-2-1-3. Region vectors have noise, and a shift per slide in a few directions, like stain.

A seed is a cohort of its own with its own folds, which all rows share, so differences are paired by seed. Measured is
the AUC of the class by a logistic probe, over five folds by patient; descriptors are fitted in each fold. Slide ViTs
are trained on all slides, without labels. With `--tune`, the settings are first chosen among those of `TUNING` on other
seeds, by the mean AUC over cohorts and seeds. The script needs no slides and no network; completed units are skipped.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import joblib
import numpy as np
import torch
from scipy import stats
from scipy.ndimage import gaussian_filter

from slpd_toolkit.config.slide_vit import (
    SlideHeadConfig,
    SlideObjectiveConfig,
    SlideOptimisationConfig,
    SlideViewsConfig,
    SlideViTConfig,
)
from slpd_toolkit.core.files import write_text
from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.descriptors.descriptor import ChosenDescriptor
from slpd_toolkit.mil.heads.fold_predictions import run_folds
from slpd_toolkit.mil.heads.training import HeadTraining
from slpd_toolkit.mil.statistics.paired_tests import holm
from slpd_toolkit.mil.tasks.kinds.classification import Classification
from slpd_toolkit.models.slide_vit import SlideNetwork, SlideRegions, SlideViT
from slpd_toolkit.objectives.slide_distillation import SlideDistillation
from slpd_toolkit.training.loop import train
from slpd_toolkit.training.processes import Processes
from slpd_toolkit.training.sampling import Stream, generator
from slpd_toolkit.training.slide_views import SlideBags, SlideViewSource
from slpd_toolkit.training.state import make_state
from slpd_toolkit.training.step_plan import make_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

KINDS, WIDTH, SIDE = 4, 32, 16
COHORTS = ("nests", "neighbors")
SIZES: dict[str, dict[str, Any]] = {
    "small": {"slides": 200, "regions": 40, "epochs": 60, "batch": 16, "embed_dim": 64, "depth": 2},
    "large": {"slides": 800, "regions": 64, "epochs": 60, "batch": 16, "embed_dim": 128, "depth": 3},
}
DESCRIPTORS = ("mean", "mean-sd", "histogram", "mixture", "transport")
_DISTILLED = {"content_weight": 0.0, "slide_weight": 1.0, "region_weight": 1.0}
TUNING: dict[str, dict[str, Any]] = {
    "content of hidden regions": {},
    "content, low learning rate": {"lr": 0.01},
    "content, and slides": {"slide_weight": 1.0},
    "slides and outputs of the teacher": _DISTILLED,
    "outputs of the teacher": {**_DISTILLED, "slide_weight": 0.0},
}
"""Changes of the settings; one is chosen with `--tune`."""
TRAINED = "slide ViT"
UNTRAINED = "untrained slide ViT"
BEST = f"{TRAINED}: mean-sd"
FOLDS = 5


class Planted(NamedTuple):
    bags: SlideBags
    kinds: NDArray[np.int64]
    label: NDArray[np.int64]


def plant(cohort: str, seed: int, *, slides: int, regions: int, noise: float = 0.7, shift: float = 0.5) -> Planted:
    """Draw a cohort: shapes of tissue, shares of kinds, their arrangement, and region vectors."""
    rng = np.random.default_rng([seed, COHORTS.index(cohort)])
    centers, directions = rng.standard_normal((KINDS, WIDTH)), rng.standard_normal((4, WIDTH))
    label = rng.permutation(np.arange(slides) % 2)
    values, places, kinds = [], [], []
    for slide in range(slides):
        count = int(np.clip(rng.gamma(4, regions / 4), 12, SIDE * SIDE // 2))
        tissue = gaussian_filter(rng.standard_normal((SIDE, SIDE)), 3)
        place = np.stack(np.divmod(np.argsort(-tissue.ravel())[:count], SIDE), axis=1)
        counts = rng.multinomial(count, rng.dirichlet([6] * KINDS))
        field = gaussian_filter(rng.standard_normal((SIDE, SIDE)), 1.0)
        if cohort == "nests":
            if not label[slide]:
                field = rng.standard_normal((SIDE, SIDE))
            order = rng.permutation(KINDS)
        else:
            order = np.array((0, 1, 2, 3) if label[slide] else (0, 2, 1, 3))[:: rng.choice([-1, 1])]
        kind = np.empty(count, np.int64)
        kind[np.argsort(field[place[:, 0], place[:, 1]])] = np.repeat(order, counts[order])
        vectors = centers[kind] + noise * rng.standard_normal((count, WIDTH))
        values.append(vectors + shift * rng.standard_normal(4) @ directions)
        places.append(place)
        kinds.append(kind)
    offsets = np.concatenate([[0], np.cumsum(list(map(len, values)))])
    ids = tuple(f"slide{number:05}" for number in range(slides))
    bags = SlideBags(ids, np.concatenate(values).astype(np.float32), np.concatenate(places).astype(np.float32), offsets)
    return Planted(bags, np.concatenate(kinds), label)


def touching(planted: Planted) -> NDArray[np.float32]:
    """The truth: the share of each pair of kinds among touching regions of each slide, (S, KINDS ** 2)."""
    found = []
    for start, stop in zip(planted.bags.offsets, planted.bags.offsets[1:], strict=False):
        place, one_hot = planted.bags.places[start:stop], np.eye(KINDS)[planted.kinds[start:stop]]
        near = np.square(place[:, None] - place[None]).sum(axis=-1) == 1
        found.append((one_hot.T @ near @ one_hot).ravel() / max(near.sum(), 1))
    return np.array(found, np.float32)


class Quiet:
    """Observer of the training loop that prints the loss a few times."""

    def __init__(self, steps: int) -> None:
        self.every = max(1, steps // 4)

    def begin_epoch(self, epoch: int) -> None:
        pass

    def end_step(self, step: int, losses: Sequence[Any], _gradient_norm: torch.Tensor) -> bool:
        if (step + 1) % self.every == 0:
            values = {name: round(float(value), 3) for name, value in losses[-1].terms.items()}
            print(f"  step {step + 1}: {values}, entropy {float(losses[-1].target_entropy):.2f}", flush=True)
        return False


def network_of(size: dict[str, Any], seed: int, bags: SlideBags) -> SlideNetwork:
    config = SlideViTConfig(**{name: size[name] for name in ("embed_dim", "depth", "steepest_slope") if name in size})
    head = SlideHeadConfig(**{name: size[name] for name in ("out_dim",) if name in size})
    network = SlideNetwork(config, head, generator(seed, Stream.WEIGHTS), input_dim=WIDTH)
    network.backbone.fit_scale(bags.values)
    return network


def trained(size: dict[str, Any], bags: SlideBags, seed: int, device: torch.device) -> SlideViT:
    """Train a slide ViT with the loop of the toolkit."""
    steps = SlideOptimisationConfig(**{name: size[name] for name in ("lr", "freeze_last_layer") if name in size})
    epochs = size["epochs"] * size.get("longer", 1)
    config: Any = SimpleNamespace(optimisation=steps, batch_size=size["batch"], accumulate=1, epochs=epochs, seed=seed)
    plan = make_plan(config, len(bags.slides), Processes(0, 1, device))
    names = ("content_weight", "slide_weight", "region_weight", "teacher_temp")
    settings = SlideObjectiveConfig(**{name: size[name] for name in names if name in size})
    objective = SlideDistillation(settings, network_of(size, seed, bags)).to(device)
    state = make_state(objective, device, "fp32")
    views = SlideViewsConfig(**{name: size[name] for name in ("hidden", "local_views") if name in size})
    source = SlideViewSource(bags, views, plan.schedule, device)
    train(state, plan, source, source.batches(range(plan.steps), workers=1), Quiet(plan.steps))
    network: SlideViT = objective.teacher.backbone
    return network.eval()


@torch.inference_mode()
def in_context(network: SlideViT, bags: SlideBags, device: torch.device) -> tuple[Bags, Bags]:
    """Return the slides (CLS) and the regions in their context."""
    slides, regions = [], []
    for start, stop in zip(bags.offsets, bags.offsets[1:], strict=False):
        values, places = (torch.from_numpy(each[start:stop])[None] for each in (bags.values, bags.places))
        one = SlideRegions(values, places, torch.ones(values.shape[:2], dtype=torch.bool)).to(device)
        slide, inside = network.to(device)(one)
        slides.append(slide.cpu().numpy())
        regions.append(inside[0].cpu().numpy())
    return (
        Bags(bags.slides, np.concatenate(slides), np.arange(len(slides) + 1)),
        Bags(bags.slides, np.concatenate(regions), bags.offsets),
    )


def auc(bags: Bags, planted: Planted, seed: int, descriptor: str = "") -> float:
    """Mean AUC of a probe over the folds."""
    task = Classification(("0", "1"), planted.label)
    cohort = Cohort(np.array(bags.slides), np.array(bags.slides), task.strata)
    splits = cross_validation(cohort, folds=FOLDS, seed=seed)
    chosen = ChosenDescriptor(descriptor) if descriptor else None
    folds = run_folds(
        bags, task, splits, "probe", descriptor=chosen, training=HeadTraining(steps=200, patience=4), seed=seed, jobs=1
    )
    return float(np.mean([task.metrics(fold.rows, fold.outputs)["auc"] for fold in folds]))


def measure(
    cohort: str, seed: int, size: dict[str, Any], device: torch.device, descriptors: Sequence[str] = DESCRIPTORS
) -> dict[str, float]:
    """AUC of every row for one seed; of descriptors of regions, only those that are named."""
    planted = plant(cohort, seed, slides=size["slides"], regions=size["regions"])
    bags = planted.bags
    centered = bags.centered()
    truth = Bags(bags.slides, touching(planted), np.arange(len(bags.slides) + 1))
    found = {"truth": auc(truth, planted, seed)}
    for kind, used in (("regions", bags), ("centered regions", centered)):
        packed = Bags(used.slides, used.values, used.offsets)
        names = [name for name in descriptors if used is bags or name != "mean"]  # the mean of centered regions is 0
        found |= {f"{kind}: {name}": auc(packed, planted, seed, name) for name in names}
    networks = {UNTRAINED: network_of(size, seed, centered).backbone.eval()}
    networks[TRAINED] = trained(size, centered, seed, device)
    for name, network in networks.items():
        slides, regions = in_context(network, centered, device)
        found[f"{name}: CLS"] = auc(slides, planted, seed)
        found |= {f"{name}: {each}": auc(regions, planted, seed, each) for each in ("mean", "mean-sd", "mixture")}
    return found


def size_of(args: argparse.Namespace, change: dict[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(args.change)
    return SIZES[args.size] | change | changed


def complete(path: Path, cohort: str, seed: int, name: str, args: argparse.Namespace) -> None:
    """Measure a unit and write its results."""
    torch.set_num_threads(args.threads)
    started = time.process_time()
    size = size_of(args, TUNING.get(name, {}))
    found = measure(cohort, seed, size, torch.device(args.device), args.descriptors)
    cpu = round(time.process_time() - started, 1)
    unit = {"size": args.size, "cohort": cohort, "seed": seed, "settings": name, "cpu_s": cpu, "auc": found}
    write_text(path, json.dumps(unit))
    shown = {name: round(value, 3) for name, value in found.items()}
    print(f"{args.size} {cohort} {seed}: {cpu} CPU s {shown}", flush=True)


def try_settings(name: str, cohort: str, seed: int, args: argparse.Namespace) -> float:
    """AUC of a slide ViT that is trained with some settings, minus that of the untrained one."""
    torch.set_num_threads(args.threads)
    size = size_of(args, TUNING[name])
    planted = plant(cohort, seed, slides=size["slides"], regions=size["regions"])
    bags, device = planted.bags.centered(), torch.device(args.device)
    pair = network_of(size, seed, bags).backbone.eval(), trained(size, bags, seed, device)
    before, after = (auc(in_context(network, bags, device)[1], planted, seed, "mean-sd") for network in pair)
    print(f"{name}, {cohort} {seed}: {before:.3f} untrained, {after:.3f}", flush=True)
    return after


def choose(args: argparse.Namespace) -> str:
    """Return the settings with the largest mean AUC; written to chosen.json."""
    path = args.out / "chosen.json"
    if path.exists():
        return str(json.loads(path.read_text())["chosen"])
    units = [(name, cohort, seed) for name in TUNING for seed in range(*args.tune) for cohort in args.cohorts]
    values = joblib.Parallel(args.jobs)(joblib.delayed(try_settings)(*unit, args) for unit in units)
    means = {
        name: float(np.mean([value for unit, value in zip(units, values, strict=True) if unit[0] == name]))
        for name in TUNING
    }
    chosen = max(means, key=means.__getitem__)
    write_text(path, json.dumps({"chosen": chosen, "auc": means, "seeds": args.tune}, indent=1))
    print(f"chosen: {chosen}; {means}", flush=True)
    return chosen


def report(out: Path, into: Path, command: str) -> None:
    """Write slide-vit.md and .json from all completed units."""
    units = [json.loads(path.read_text()) for path in sorted(out.glob("*-*.json"))]
    chosen = json.loads((out / "chosen.json").read_text()) if (out / "chosen.json").exists() else {}
    lines = [
        "# Does a slide ViT see how regions lie to one another?",
        "",
        f"Planted cohorts of the same composition; AUC of a probe, five folds by patient. `{command}`",
        "",
        (
            f"Difference: `{BEST}` minus the best descriptor of regions of that cohort (by mean AUC), and minus the "
            "untrained network, paired by seed, with 95 % intervals; p by a two-sided t-test over seeds, adjusted by "
            "Holm's method over all rows."
        ),
    ]
    if chosen:
        lines += ["", f"Settings, chosen on seeds {chosen['seeds']}: {chosen['chosen']}.", ""]
        lines += ["| settings | mean AUC |", "|---|---|"]
        lines += [f"| {name} | {value:.3f} |" for name, value in chosen["auc"].items()]
    groups: dict[tuple[str, str], list[dict[str, float]]] = {}
    for unit in units:
        groups.setdefault((unit["size"], unit["cohort"]), []).append(unit["auc"])
    tests = []
    for (size, cohort), aucs in groups.items():
        means = {name: float(np.mean([each[name] for each in aucs])) for name in aucs[0]}
        best = max((name for name in means if "regions: " in name), key=means.__getitem__)
        others = (best, f"{UNTRAINED}: mean-sd")
        tests += [(size, cohort, other, np.array([each[BEST] - each[other] for each in aucs])) for other in others]
        lines += [
            "",
            f"## {cohort}, {size} ({len(aucs)} seeds)",
            "",
            "| vector | AUC | least | most |",
            "|---|---|---|---|",
        ]
        ranges = {name: (min(each[name] for each in aucs), max(each[name] for each in aucs)) for name in means}
        lines += [f"| {name} | {means[name]:.3f} | {low:.3f} | {high:.3f} |" for name, (low, high) in ranges.items()]
    raw = np.array([stats.ttest_1samp(each, 0).pvalue for *_, each in tests])
    lines += [
        "",
        "## Differences",
        "",
        "| size | cohort | minus | difference | 95 % interval | p |",
        "|---|---|---|---|---|---|",
    ]
    for (size, cohort, other, each), p in zip(tests, holm(raw), strict=True):
        half = stats.t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / np.sqrt(len(each))
        interval = f"[{each.mean() - half:+.3f}, {each.mean() + half:+.3f}]"
        lines += [f"| {size} | {cohort} | {other} | {each.mean():+.3f} | {interval} | {p:.2g} |"]
    write_text(into / "slide-vit.md", "\n".join(lines) + "\n")
    write_text(
        into / "slide-vit.json",
        json.dumps({"command": command, "tuning": chosen, "sizes": SIZES, "units": units}, indent=1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results of units")
    parser.add_argument("--cohorts", nargs="+", default=list(COHORTS), choices=COHORTS)
    parser.add_argument("--seeds", nargs=2, type=int, default=(0, 5), help="first seed, and the one after the last")
    parser.add_argument("--descriptors", nargs="+", default=DESCRIPTORS, choices=DESCRIPTORS, help="rows of regions")
    parser.add_argument("--size", default="small", choices=SIZES)
    parser.add_argument("--change", default="{}", help="JSON of changes of the size")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tune", nargs=2, type=int, help="seeds on which settings are chosen first")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", type=Path, help="folder for slide-vit.md and .json of all that is there")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    chosen = choose(args) if args.tune else ""
    units = [(seed, cohort) for seed in range(*args.seeds) for cohort in args.cohorts]
    left = [
        (path, cohort, seed, chosen, args)
        for seed, cohort in units
        if not (path := args.out / f"{args.size}-{cohort}-{seed}.json").exists()
    ]
    joblib.Parallel(args.jobs)(joblib.delayed(complete)(*unit) for unit in left)
    if args.report:
        report(args.out, args.report, shlex.join(["python", "-m", "benchmarks.planted.slide_vit", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
