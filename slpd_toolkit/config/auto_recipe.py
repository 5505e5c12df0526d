"""Settings of `slpd pretrain` that follow from the size of a cohort, each with its reason.

The values for small cohorts are those that worked on cohorts of 800 to 1,500 regions with a known truth, with networks
of that size (benchmarks/results/planted.md and robust.md); those for large cohorts are the published ones. In between,
nothing was measured.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from slpd_toolkit.core.text import count

SMALL_COHORT = 5_000
"""Regions below which a small network is trained."""
PUBLISHED_COHORT = 20_000
"""Regions from which SLPD is trained as published: TCGA-NSCLC has about 60,000."""
_STEPS, _STEPS_OF_WHITENED = 1_000, 500
_WHITENING = "wiener"
_STEPS_PER_EPOCH = 16
_PEAK = 0.001
_REFERENCE_BATCH = 256
_LARGE_SLIDE = 64


class Choice(NamedTuple):
    """A chosen value."""

    value: Any
    reason: str


@dataclass(frozen=True)
class CohortSize:
    """What the choices depend on."""

    regions: Sequence[int]
    """Number of regions of each slide."""
    grid: int
    """Tokens along the side of a region."""
    processes: int = 1
    given: Mapping[str, Any] = field(default_factory=dict)
    """Values that are not chosen; others follow from them, such as the number of epochs from `batch_size`."""

    @property
    def total(self) -> int:
        """Number of regions of all slides."""
        return sum(self.regions)

    @property
    def is_small(self) -> bool:
        """Whether the published settings do not suit the cohort."""
        return self.total < SMALL_COHORT


def choose_settings(size: CohortSize) -> dict[str, Choice]:
    """Return all settings that can be chosen, by name, in the order in which they are printed."""
    return {**_sizes(size), **(_remedies() if size.is_small else {})}


def _sizes(size: CohortSize) -> dict[str, Choice]:
    return {**_length(size), **_views(size), **_prototypes(size), **_network(size)}


def _remedies() -> dict[str, Choice]:
    return {
        "whitening": Choice(_WHITENING, "slides differ in stain and scanner; composition is kept"),
        "pooling": Choice("cls+mean+input", "keeps what a region consists of"),
        "weight_init": Choice("fan-in", "sensitive to the arrangement of tokens from the start"),
        "intra_weight": Choice(1.0, "as published"),
        "inter_weight": Choice(1.0, "as published"),
    }


def _length(size: CohortSize) -> dict[str, Choice]:
    total, published = size.total, size.total >= PUBLISHED_COHORT
    share = total / _STEPS_PER_EPOCH / size.processes
    batch = min(128, max(1, 2 ** math.floor(math.log2(max(1.0, share)))))
    if 1 < (parts := size.given.get("accumulate", 1)) <= batch:
        batch -= batch % parts
    batch = size.given.get("batch_size", batch)
    of_epoch = max(1, total // (batch * size.processes))
    whitened = size.given.get("whitening", _WHITENING if size.is_small else "none") != "none"
    wanted, least = (_STEPS_OF_WHITENED, 15) if whitened else (_STEPS, 30)
    epochs = size.given.get("epochs", 100 if published else max(least, math.ceil(wanted / of_epoch)))
    steps = epochs * of_epoch
    warmup = min(epochs, max(1, round(0.1 * epochs)))
    lr = 0.0005 if published else round(_PEAK * _REFERENCE_BATCH / (batch * size.processes), 6)
    momentum = 0.996 if published else min(0.996, max(0.9, round(1 - 10 / steps, 3)))
    return {
        "batch_size": Choice(
            batch, f"{count(total, 'region')}, at least {_STEPS_PER_EPOCH} steps per epoch; at most 128"
        ),
        "epochs": Choice(
            epochs,
            "as published"
            if published
            else f"{count(steps, 'step')} in total, {of_epoch} per epoch; about {wanted:,} are needed"
            + (" with whitened tokens" if whitened else ""),
        ),
        "warmup_epochs": Choice(warmup, "a tenth of the epochs"),
        "prototype_epoch": Choice(
            min(21, round(0.21 * epochs)) if published else round(0.38 * epochs),
            "as published"
            if published
            else "38 % of the epochs: earlier, the network is nearly untrained and its prototypes are not useful",
        ),
        "lr": Choice(
            lr,
            "as published"
            if published
            else f"a peak of {lr * batch * size.processes / _REFERENCE_BATCH:.2g}: short runs need a higher "
            f"learning rate",
        ),
        "teacher_momentum": Choice(momentum, "as published" if published else f"for {count(steps, 'step')}"),
        "weight_decay_end": Choice(0.4 if published else 0.1, "as published" if published else "short run"),
        "log_every": Choice(min(20, of_epoch), "at least one row of metrics.csv per epoch"),
    }


def _views(size: CohortSize) -> dict[str, Choice]:
    grid, small = size.grid, size.is_small
    large, little = (0.625, 0.375) if small else (14 / 16, 6 / 16)
    where = f"of the side of a region ({grid} tokens)"
    wide = size.given.get("global_side", max(1, round(large * grid), min(grid, size.given.get("local_side", 1))))
    return {
        "global_side": Choice(wide, f"{large:.1%} {where}" + ("" if small else ", as published")),
        "local_side": Choice(min(wide, max(1, round(little * grid))), f"{little:.1%} {where}"),
        "local_crops": Choice(4 if small else 8, "small network" if small else "as published"),
    }


def _prototypes(size: CohortSize) -> dict[str, Choice]:
    ordered = sorted(size.regions)
    median = ordered[len(ordered) // 2] if ordered else 0
    clusters = size.given.get("clusters", min(2 if median < _LARGE_SLIDE else 4, size.given.get("min_regions", 4)))
    quintile = ordered[len(ordered) // 5] if ordered else 0
    least = max(clusters, min(32, quintile))
    return {
        "clusters": Choice(clusters, f"the median slide has {median} regions"),
        "min_regions": Choice(
            least, f"{sum(count >= least for count in ordered)} of {count(len(ordered), 'slide')} get prototypes"
        ),
    }


def _network(size: CohortSize) -> dict[str, Choice]:
    total = size.total
    outputs = min(65536, max(256, 2 ** round(math.log2(max(1, total / 4)))))
    found = {"out_dim": Choice(outputs, f"about a quarter of {count(total, 'region')}, 256 to 65,536")}
    width, heads = _width(size)
    if size.is_small:
        why = f"fewer than {SMALL_COHORT:,} regions: a small network"
        sizes = {"embed_dim": width, "depth": 2, "heads": heads, "mlp_ratio": 2.0, "drop_path": 0.0}
        found |= {name: Choice(value, why) for name, value in sizes.items()}
        found |= {"hidden_dim": Choice(128, why), "bottleneck_dim": Choice(64, why)}
    elif size.given.keys() & {"embed_dim", "heads"}:
        found |= {
            "embed_dim": Choice(width, "a multiple of the heads"),
            "heads": Choice(heads, "a divisor of the width"),
        }
    return found


def _width(size: CohortSize) -> tuple[int, int]:
    """Return the width of the network and its number of attention heads, close to the usual ones for given values."""
    width, heads = (64, 4) if size.is_small else (192, 6)
    if size.given.get("heads", 0) > 0:
        heads = size.given["heads"]
        width = heads * max(1, round(width / heads))
    return width, max(n for n in range(1, heads + 1) if size.given.get("embed_dim", width) % n == 0)


SIZES = tuple(_sizes(CohortSize([1], 1)))
"""Names of the settings that follow from the size of the cohort."""
CHOSEN = (*SIZES, *_remedies())
"""Names of all settings that can be chosen."""
IF_SMALL = "if-small"
"""First value of `auto` without a recipe: the settings after it are chosen if the cohort is small."""
