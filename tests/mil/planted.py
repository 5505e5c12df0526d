"""Cohorts with a known answer."""

from __future__ import annotations

import numpy as np

from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.tasks.kinds.classification import Classification


def make_cohort(slides_of_patient: list[int], labels: list[str], sites: list[str] | None = None) -> Cohort:
    """Make a cohort: patient p has slides_of_patient[p] slides, labels[p] and sites[p]; slide IDs are like `p007-1`."""
    of_slide = np.repeat(np.arange(len(slides_of_patient)), slides_of_patient)
    number = np.concatenate([np.arange(count) for count in slides_of_patient])
    slides = np.array([f"p{patient:03d}-{index}" for patient, index in zip(of_slide, number, strict=True)])
    patients = np.array([f"p{patient:03d}" for patient in of_slide])
    return Cohort(slides, patients, np.array(labels)[of_slide], None if sites is None else np.array(sites)[of_slide])


def planted_bags(
    cohort: Cohort,
    *,
    signal: float,
    width: int = 8,
    sizes: tuple[int, int] = (4, 12),
    patient_mark: float = 0.0,
    seed: int = 0,
) -> Bags:
    """Draw bags of noise with a planted signal.

    Args:
        cohort: Slides, patients and labels.
        signal: Class i shifts a third of its regions by `signal` along axis i.
        width: Width of the embeddings.
        sizes: Minimum and maximum number of regions of a slide.
        patient_mark: Length of a random vector added to all regions of a patient.
        seed: Random seed.
    """
    rng = np.random.default_rng(seed)
    assert cohort.strata is not None
    classes = np.unique(cohort.strata).tolist()
    marks = {patient: rng.normal(size=width) for patient in sorted(set(cohort.patients.tolist()))}
    bags = {}
    for slide, patient, label in zip(cohort.slides, cohort.patients, cohort.strata, strict=True):
        bag = rng.normal(size=(rng.integers(*sizes, endpoint=True), width))
        bag[: len(bag) // 3 + 1, classes.index(label)] += signal
        bags[str(slide)] = (bag + patient_mark * marks[str(patient)]).astype(np.float32)
    return Bags.pack(bags)


def task_of(cohort: Cohort) -> Classification:
    """Return the classification task of a cohort's labels."""
    assert cohort.strata is not None
    classes, targets = np.unique(cohort.strata, return_inverse=True)
    return Classification(tuple(classes.tolist()), targets.astype(np.int64))
