"""Cohorts with a known answer."""

from __future__ import annotations

import numpy as np

from slpd_toolkit.mil.cohort import Cohort


def make_cohort(slides_of_patient: list[int], labels: list[str], sites: list[str] | None = None) -> Cohort:
    """Patient p has slides_of_patient[p] slides, labels[p] and sites[p]; slide ids are `p007-1`."""
    of_slide = np.repeat(np.arange(len(slides_of_patient)), slides_of_patient)
    number = np.concatenate([np.arange(count) for count in slides_of_patient])
    slides = np.array([f"p{patient:03d}-{index}" for patient, index in zip(of_slide, number, strict=True)])
    patients = np.array([f"p{patient:03d}" for patient in of_slide])
    return Cohort(slides, patients, np.array(labels)[of_slide], None if sites is None else np.array(sites)[of_slide])
