"""Results of an evaluation, from which its files, tables and report are made."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slpd_toolkit.mil.arrays import FloatArray, IntArray, StrArray
    from slpd_toolkit.mil.bags import Bags
    from slpd_toolkit.mil.cohort.audit import SplitAudit
    from slpd_toolkit.mil.cohort.patients import Cohort
    from slpd_toolkit.mil.descriptors.descriptor import ChosenDescriptor
    from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction
    from slpd_toolkit.mil.statistics.calibration import Calibration
    from slpd_toolkit.mil.statistics.covariate_study import CovariateStudy
    from slpd_toolkit.mil.statistics.evaluation import Comparison, CountedUnit
    from slpd_toolkit.mil.statistics.intervals import Interval
    from slpd_toolkit.mil.statistics.retrieval import Retrieval
    from slpd_toolkit.mil.statistics.site_effects import SiteEffects
    from slpd_toolkit.mil.tasks.task import Task


@dataclass(frozen=True, eq=False)
class RegionPlaces:
    """Coordinates of the M regions of S slides, in the order of the bags."""

    coords_l0: IntArray
    """(M, 2) x, y of each region's top-left corner, level-0 px."""
    region_l0: IntArray
    """(S,) side of a region on each slide, level-0 px."""
    slide_size_l0: IntArray
    """(S, 2) width and height of each slide, level-0 px; 0 if unknown."""


@dataclass(frozen=True, eq=False)
class Representation:
    """Bags of the evaluated slides by one `--model`."""

    name: str
    """Short unique name for tables, files and legends."""
    source: str
    """Description of the source: a path, or what was computed."""
    bags: Bags
    """One bag per slide, in the order of the cohort."""
    places: RegionPlaces | None = None
    """Coordinates of the regions; None if bags contain slide vectors."""
    pretrained: frozenset[str] = frozenset()
    """Slides used in pretraining, if known."""
    pretraining_known: bool = False
    """Whether `pretrained` was read from a run folder; otherwise the pretraining is unknown."""
    descriptor: ChosenDescriptor | None = None
    """Descriptor that is applied to the bags, fitted on the training slides of each fold."""

    def of_slides(self, slides: Sequence[str]) -> Representation:
        """Return the representation of some of its slides, in this order; itself if they are all."""
        if tuple(slides) == self.bags.slides:
            return self
        rows = self.bags.index_of(slides)
        places = self.places
        if places is not None:
            regions = self.bags.regions_of(rows)
            places = RegionPlaces(places.coords_l0[regions], places.region_l0[rows], places.slide_size_l0[rows])
        return replace(self, bags=self.bags.subset(rows), places=places)


@dataclass(frozen=True, eq=False)
class Result:
    """Results of one representation with one aggregator on all splits."""

    model: str
    """`Representation.name`."""
    aggregator: str
    folds: tuple[FoldPrediction, ...]
    """Predictions, one per split, in order."""
    values: Mapping[str, FloatArray]
    """(J,) values of each metric, one per fold."""
    intervals: Mapping[str, Interval]
    """95 % interval of the mean over folds of each metric."""
    calibration: Calibration | None = None
    """Of probabilities and decisions; None for targets without class probabilities."""

    @property
    def scaled_folds(self) -> tuple[FoldPrediction, ...]:
        """Predictions after temperature scaling; empty without `calibration`."""
        return self.calibration.folds if self.calibration is not None else ()


@dataclass(frozen=True)
class PairedResult:
    """Comparison of two models with the same aggregator on the same splits."""

    aggregator: str
    first: str
    second: str
    metrics: Mapping[str, Comparison]
    """Comparison by each metric, first minus second."""
    adjusted: Mapping[str, float]
    """p-values of the headline metric, by test (`shared_training`, `permutation`, `corrected_t`, `delong`), adjusted by
    Holm's method over all comparisons of the evaluation; NaN if a test is undefined."""
    adjusted_over: int = 0
    """Number of comparisons that they are adjusted for: with several targets, those of all of them."""


@dataclass(frozen=True)
class RepresentationMeasures:
    """Further measurements: those of representations, and the comparison with covariates."""

    retrieval: tuple[Retrieval, ...] = ()
    """One per representation; empty if the targets are not classes."""
    site_effects: tuple[SiteEffects, ...] = ()
    """One per representation; empty without sites."""
    sites: StrArray | None = None
    """(N,) site of each slide, empty where it is not known; None without sites."""
    covariates: CovariateStudy | None = None
    """Comparison of all results with covariates, if there are any."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that a run of `slpd mil-eval` found."""

    target: str
    """Manifest column of the target; `time, event` for survival."""
    task: Task
    cohort: Cohort
    """The cohort, with slides in the order of the task's targets and of the bags."""
    representations: tuple[Representation, ...]
    results: tuple[Result, ...]
    """Results of every representation with every aggregator."""
    unit: CountedUnit
    """Whether metrics count patients or slides."""
    by_site: bool
    """Whether whole sites were split, so that intervals and tests are over sites."""
    comparisons: tuple[PairedResult, ...]
    """Comparisons; empty with a single representation."""
    audits: Mapping[str, tuple[SplitAudit, ...]]
    """Audits of each representation, one per split."""
    recipe: Mapping[str, object]
    """All resolved settings, versions and digests."""
    notes: tuple[str, ...] = field(default=())
    """Notes for readers, such as slides that were left out or parts that were merged."""
    of_representations: RepresentationMeasures = RepresentationMeasures()
    """Further measurements."""
