"""What an evaluation found: all that its files, its tables and its report are made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slpd_toolkit.mil.arrays import FloatArray, IntArray
    from slpd_toolkit.mil.bags import Bags
    from slpd_toolkit.mil.cohort.audit import SplitAudit
    from slpd_toolkit.mil.cohort.patients import Cohort
    from slpd_toolkit.mil.descriptors.descriptor import ChosenDescriptor
    from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction
    from slpd_toolkit.mil.statistics.calibration import Calibration
    from slpd_toolkit.mil.statistics.evaluation import Comparison, CountedUnit
    from slpd_toolkit.mil.statistics.intervals import Interval
    from slpd_toolkit.mil.statistics.retrieval import Retrieval
    from slpd_toolkit.mil.tasks.task import Task


@dataclass(frozen=True, eq=False)
class RegionPlaces:
    """Where the M regions of S slides lie, in the order of the bags."""

    coords_l0: IntArray
    """(M, 2) x, y of each region's top-left corner, level-0 px."""
    region_l0: IntArray
    """(S,) side of a region on each slide, level-0 px."""
    slide_size_l0: IntArray
    """(S, 2) width and height of each slide, level-0 px; 0 where it is not known."""


@dataclass(frozen=True, eq=False)
class Representation:
    """What one `--model` makes of the evaluated slides."""

    name: str
    """Short and unique: it stands in tables, files and legends."""
    source: str
    """Where it came from, in words: the path, or what was computed."""
    bags: Bags
    """One bag a slide, in the order of the cohort."""
    places: RegionPlaces | None = None
    """None where bags hold vectors of whole slides."""
    pretrained: frozenset[str] = frozenset()
    """Slides that its pretraining saw, as far as is known."""
    pretraining_known: bool = False
    """Whether `pretrained` was read from a run folder; else nothing is known of the pretraining."""
    descriptor: ChosenDescriptor | None = None
    """Applied to the bags in each fold, fitted on its training slides."""


@dataclass(frozen=True, eq=False)
class Result:
    """One representation under one aggregator, on every split."""

    model: str
    """`Representation.name`."""
    aggregator: str
    folds: tuple[FoldPrediction, ...]
    """One per split, in the order of the splits."""
    values: Mapping[str, FloatArray]
    """For each metric its (J,) values, one per fold."""
    intervals: Mapping[str, Interval]
    """For each metric the 95 % interval of its mean over folds."""
    calibration: Calibration | None = None
    """Of probabilities and decisions; None for targets without class probabilities."""

    @property
    def scaled_folds(self) -> tuple[FoldPrediction, ...]:
        """Predictions after temperature scaling; empty without `calibration`."""
        return self.calibration.folds if self.calibration is not None else ()


@dataclass(frozen=True)
class PairedResult:
    """Two models under the same aggregator on the same splits."""

    aggregator: str
    first: str
    second: str
    metrics: Mapping[str, Comparison]
    """For each metric first minus second."""
    adjusted: Mapping[str, float]
    """p-values of the headline metric, by test (`shared_training`, `permutation`, `corrected_t`, `delong`), adjusted by
    Holm's method over all comparisons of the evaluation; NaN where a test is undefined."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One run of `slpd mil-eval`."""

    target: str
    """Manifest column that was predicted; `time, event` for survival."""
    task: Task
    cohort: Cohort
    """Its slides are in the order of the task's targets and of the bags."""
    representations: tuple[Representation, ...]
    results: tuple[Result, ...]
    """Every representation under every aggregator."""
    unit: CountedUnit
    """What metrics count: patients or slides."""
    by_site: bool
    """Whether whole sites were split, so that intervals and tests are over sites."""
    comparisons: tuple[PairedResult, ...]
    """Empty with a single representation."""
    audits: Mapping[str, tuple[SplitAudit, ...]]
    """For each representation, one a split."""
    recipe: Mapping[str, object]
    """Every resolved setting, versions and digests."""
    notes: tuple[str, ...] = field(default=())
    """What a reader must know: slides that were left out, parts that were merged."""
    retrieval: tuple[Retrieval, ...] = ()
    """One per representation; empty if the targets are not classes."""
