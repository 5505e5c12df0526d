"""The cohort: patients, their slides, and what is planted in each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slpd_toolkit.demo.architectures import CLASSES, Architecture, class_mixture
from slpd_toolkit.demo.artefacts import Artefact

SLIDES_A_PATIENT = (1, 2, 1, 1, 3, 1, 2, 1, 1, 1, 1, 3)
"""In turn; both classes, which take turns too, get equally many slides."""
SCANNERS_MPP = (0.5, 0.5, 0.46, 0.55)
"""Level-0 resolutions of the scanners in use."""
PATIENT_SPREAD, SLIDE_SPREAD = 14.0, 60.0
"""Concentrations of the Dirichlet distributions of a patient's mixture about its class's, and of a slide's about its
patient's: the smaller, the more they differ."""
_ARTEFACT_RATE = 0.2
_PATIENTS, _SLIDES = 0, 1  # streams of random numbers


@dataclass(frozen=True)
class PlannedSlide:
    """One slide before it is painted."""

    slide_id: str
    patient_id: str
    label: str
    seed: tuple[int, ...]
    """Of everything that is drawn for this slide alone."""
    mpp: float
    rows: int
    """Squares of `REGION_UM` from top to bottom."""
    columns: int
    mixture: tuple[float, ...]
    """Wanted share of each `Architecture`."""
    artefacts: tuple[Artefact, ...]


def plan_cohort(slides: int, seed: int, size: int) -> list[PlannedSlide]:
    """Plan a cohort; the first slides of a longer one with the same seed are the same.

    Args:
        slides: How many; the last patient may have fewer than drawn.
        seed: Of the cohort.
        size: Squares along the shorter side of the smallest slide.
    """
    planned: list[PlannedSlide] = []
    patient = 0
    while len(planned) < slides:
        rng = np.random.default_rng((seed, _PATIENTS, patient))
        label = CLASSES[patient % len(CLASSES)]
        patient_id = f"P{patient + 1:03}"
        mixture = rng.dirichlet(PATIENT_SPREAD * class_mixture(label))
        count = SLIDES_A_PATIENT[patient % len(SLIDES_A_PATIENT)]
        for number in range(min(count, slides - len(planned))):
            own = rng.dirichlet(SLIDE_SPREAD * np.maximum(mixture, 1e-3))
            planned.append(
                PlannedSlide(
                    slide_id=f"{patient_id}-{'ABC'[number]}",
                    patient_id=patient_id,
                    label=label,
                    seed=(seed, _SLIDES, patient, number),
                    mpp=float(rng.choice(SCANNERS_MPP)),
                    rows=size + int(rng.integers(2)),
                    columns=size + 1 + int(rng.integers(2)),
                    mixture=tuple(own.tolist()),
                    artefacts=tuple(artefact for artefact in Artefact if rng.random() < _ARTEFACT_RATE),
                )
            )
        patient += 1
    return planned


def plant(
    rng: np.random.Generator, mixture: tuple[float, ...], coverage: np.typing.NDArray[np.float64]
) -> np.typing.NDArray[np.uint8]:
    """Give every square an architecture, so that the section holds the mixture and like lies beside like.

    Args:
        rng: Source of the order.
        mixture: Wanted share of each `Architecture`.
        coverage: (rows, columns) share of each square that is tissue.

    Returns:
        (rows, columns) architectures; squares without tissue have one too, which shows nowhere.
    """
    rows, columns = coverage.shape
    turn = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:rows, :columns]
    # A sweep over the section, a little disturbed; each architecture gets the next stretch of it.
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
