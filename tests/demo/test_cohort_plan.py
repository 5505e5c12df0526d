"""The plan of the cohort: classes, what determines them, and that sections contain what was planned."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from slpd_toolkit.demo.architectures import (
    CLASSES,
    EXCLUDED,
    INFLAMED,
    Architecture,
    Fields,
    Kind,
    arrange,
    class_mixture,
)
from slpd_toolkit.demo.cohort_plan import plan_cohort, plant
from slpd_toolkit.demo.fields import rank, smooth


def test_a_cohort_is_made_of_patients_of_one_class_with_one_to_three_slides() -> None:
    slides = plan_cohort(48, seed=0, size=3)
    assert len({slide.slide_id for slide in slides}) == 48
    labels: dict[str, set[str]] = {}
    for slide in slides:
        labels.setdefault(slide.patient_id, set()).add(slide.label)
    assert all(len(found) == 1 for found in labels.values())
    counts = Counter(slide.patient_id for slide in slides)
    assert set(counts.values()) == {1, 2, 3}
    by_class = Counter(slide.label for slide in slides)
    assert set(by_class) == set(CLASSES)
    assert abs(by_class[INFLAMED] - by_class[EXCLUDED]) <= 4
    assert {artefact for slide in slides for artefact in slide.artefacts} == {"pen", "fold", "blur"}
    assert len({slide.mpp for slide in slides}) > 1


@pytest.mark.parametrize("slides", [10, 11, 15])
def test_the_smallest_cohorts_have_three_patients_a_class(slides: int) -> None:
    labels = Counter({slide.patient_id: slide.label for slide in plan_cohort(slides, 5, 2)}.values())
    assert min(labels[INFLAMED], labels[EXCLUDED]) >= 3


def test_a_longer_cohort_begins_like_a_shorter_one_and_seeds_differ() -> None:
    assert plan_cohort(30, seed=3, size=3)[:11] == plan_cohort(11, seed=3, size=3)
    assert plan_cohort(5, seed=3, size=3) != plan_cohort(5, seed=4, size=3)


def test_classes_share_all_architectures_and_mixtures_are_shares() -> None:
    for label in CLASSES:
        assert class_mixture(label).sum() == pytest.approx(1)
        assert class_mixture(label).min() > 0


def fields(seed: int = 0, side: int = 500) -> Fields:
    rng = np.random.default_rng(seed)
    return Fields(*(rank(smooth(rng, (side, side), 20)) for _ in Fields._fields))


def kinds_of(architecture: Architecture) -> tuple[np.ndarray, float]:
    """Return the fraction of each kind in an architecture, and its density of scattered lymphocytes."""
    drawn = fields()
    kinds, scattered = arrange(np.full(drawn.blobs.shape, architecture, np.uint8), drawn)
    return np.bincount(kinds.ravel(), minlength=len(Kind)) / kinds.size, float(scattered.mean())


@pytest.mark.slow
def test_tumour_architectures_differ_in_what_is_beside_the_tumour_not_in_how_much_tumour_there_is() -> None:
    with_tumour = (
        Architecture.NESTS, Architecture.CORDS, Architecture.INFLAMED_NESTS, Architecture.INFILTRATED_CORDS
    )  # fmt: skip
    tumour = [kinds_of(each)[0][Kind.TUMOUR] for each in with_tumour]
    assert tumour == pytest.approx([0.46] * 4, abs=0.03)
    assert kinds_of(Architecture.NESTS)[0][Kind.LYMPHOID] == 0
    assert kinds_of(Architecture.INFLAMED_NESTS)[0][Kind.LYMPHOID] == pytest.approx(0.22, abs=0.04)
    assert kinds_of(Architecture.INFILTRATED_CORDS)[1] > 10 * kinds_of(Architecture.CORDS)[1]
    assert kinds_of(Architecture.FOLLICLES)[0][Kind.TUMOUR] == 0


@pytest.mark.slow
def test_mixtures_decide_the_class_and_composition_says_a_little() -> None:
    slides = plan_cohort(600, seed=1, size=3)
    inflamed = np.array([slide.label == INFLAMED for slide in slides])
    mixtures = np.array([slide.mixture for slide in slides])
    by_mixture = mixtures @ (class_mixture(INFLAMED) - class_mixture(EXCLUDED))
    lymphoid = np.array([kinds_of(kind)[0][Kind.LYMPHOID] for kind in Architecture])
    by_composition = mixtures @ lymphoid
    assert roc_auc_score(inflamed, by_mixture) > 0.97
    assert 0.6 < roc_auc_score(inflamed, by_composition) < 0.85


def test_a_section_holds_the_mixture_that_was_planned() -> None:
    rng = np.random.default_rng(0)
    mixture = (0.3, 0.2, 0.1, 0.05, 0.05, 0.1, 0.15, 0.05)
    coverage = np.ones((20, 20))
    coverage[:6, :6] = 0
    planted = plant(rng, mixture, coverage)
    shares = np.bincount(planted.ravel(), weights=coverage.ravel(), minlength=9)[1:] / coverage.sum()
    np.testing.assert_allclose(shares, mixture, atol=1 / 300)


def test_like_lies_beside_like() -> None:
    planted = plant(np.random.default_rng(1), (1 / 8,) * 8, np.ones((16, 16)))
    beside = (planted[:, 1:] == planted[:, :-1]).mean()
    shuffled = np.random.default_rng(2).permutation(planted.ravel()).reshape(planted.shape)
    assert beside > 3 * (shuffled[:, 1:] == shuffled[:, :-1]).mean()
