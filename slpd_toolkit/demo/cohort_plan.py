"""The plan of the cohort: patients, their slides, and the ground truth of each slide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slpd_toolkit.demo.architectures import CLASSES, Architecture, class_mixture
from slpd_toolkit.demo.artefacts import Artefact

SLIDES_PER_PATIENT = (1, 2, 1, 1, 3, 1, 2, 1, 1, 1, 1, 3)
"""Number of slides of consecutive patients, repeated. Classes alternate, so that both have equally many slides."""
SCANNERS_MPP = (0.75, 0.75, 0.69, 0.82)
"""Level-0 resolutions of the scanners, coarser than those of real ones (0.25 to 0.5): the demo reads tokens at
1.0, and generation takes time in proportion to the number of pixels."""
PATIENT_CONCENTRATION, SLIDE_CONCENTRATION = 14.0, 60.0
"""Concentrations of the Dirichlet distributions from which the mixture of a patient is drawn around that of its class,
and the mixture of a slide around that of its patient; smaller values mean more variation."""
_ARTEFACT_RATE = 0.2
_PATIENTS, _SLIDES = 0, 1  # streams of the random generator


@dataclass(frozen=True)
class PlannedSlide:
    """A planned slide, before its pixels are generated."""

    slide_id: str
    patient_id: str
    label: str
    seed: tuple[int, ...]
    """Seed of everything that is drawn for this slide only."""
    mpp: float
    rows: int
    """Number of squares of `REGION_UM` from top to bottom."""
    columns: int
    """Number of squares from left to right."""
    mixture: tuple[float, ...]
    """Planned fraction of each `Architecture`."""
    artefacts: tuple[Artefact, ...]


def plan_cohort(slides: int, seed: int, size: int) -> list[PlannedSlide]:
    """Plan a cohort. With the same seed, the slides of a shorter cohort are the first slides of a longer one.

    Args:
        slides: Number of slides; the last patient may have fewer slides than planned.
        seed: Seed of the cohort.
        size: Number of squares along each side of the smallest slide; others have up to one more.
    """
    planned: list[PlannedSlide] = []
    patient = 0
    while len(planned) < slides:
        rng = np.random.default_rng((seed, _PATIENTS, patient))
        label = CLASSES[patient % len(CLASSES)]
        patient_id = f"P{patient + 1:03}"
        mixture = rng.dirichlet(PATIENT_CONCENTRATION * class_mixture(label))
        count = SLIDES_PER_PATIENT[patient % len(SLIDES_PER_PATIENT)]
        for number in range(min(count, slides - len(planned))):
            own = rng.dirichlet(SLIDE_CONCENTRATION * np.maximum(mixture, 1e-3))
            planned.append(
                PlannedSlide(
                    slide_id=f"{patient_id}-{'ABC'[number]}",
                    patient_id=patient_id,
                    label=label,
                    seed=(seed, _SLIDES, patient, number),
                    mpp=float(rng.choice(SCANNERS_MPP)),
                    rows=size + int(rng.integers(2)),
                    columns=size + int(rng.integers(2)),
                    mixture=tuple(own.tolist()),
                    artefacts=tuple(artefact for artefact in Artefact if rng.random() < _ARTEFACT_RATE),
                )
            )
        patient += 1
    return planned


def plant(
    rng: np.random.Generator, mixture: tuple[float, ...], coverage: np.typing.NDArray[np.float64]
) -> np.typing.NDArray[np.uint8]:
    """Assign architectures to squares, so that the section has the planned mixture and equal squares are adjacent.

    Args:
        rng: Random generator of the arrangement.
        mixture: Planned fraction of each `Architecture`.
        coverage: (rows, columns) tissue fraction of each square.

    Returns:
        (rows, columns) architectures; those of squares without tissue are never visible.
    """
    rows, columns = coverage.shape
    turn = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:rows, :columns]
    # A slightly randomized sweep over the section; each architecture gets the next stretch of it.
    place = (x * np.cos(turn) + y * np.sin(turn) + rng.normal(0, 0.6, coverage.shape)).ravel()
    along = np.argsort(place)
    order = rng.permutation(len(mixture))
    ends = np.cumsum(np.array(mixture)[order])
    weight = coverage.ravel()[along]
    middle = (np.cumsum(weight) - weight / 2) / max(weight.sum(), 1e-9)
    chosen = np.minimum(np.searchsorted(ends, middle), len(mixture) - 1)
    planted = np.empty(rows * columns, np.uint8)
    planted[along] = np.array(list(Architecture), np.uint8)[order][chosen]
    return planted.reshape(rows, columns)
