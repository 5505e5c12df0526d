"""Calibration and decisions, on predictions whose temperature is planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, recall_score

from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.heads.fold_predictions import FoldPrediction, KeptHead
from slpd_toolkit.mil.heads.head import HeadState
from slpd_toolkit.mil.statistics.calibration import Calibration, calibrate
from slpd_toolkit.mil.statistics.evaluation import judge
from slpd_toolkit.mil.tasks.kinds.classification import Classification
from slpd_toolkit.mil.tasks.metrics import expected_calibration_error
from slpd_toolkit.mil.tasks.readouts import Readout
from slpd_toolkit.mil.tasks.thresholds import sensitivity_threshold, youden_threshold
from tests.mil.planted import make_cohort

PATIENTS, PLANTED = 300, 3.0
SOFTMAX = Readout("softmax")


def calibrated(
    *, repeats: int = 1, sensitivity: float | None = None, by_site: bool = False
) -> tuple[Calibration, Classification, list[FoldPrediction], np.ndarray]:
    """Calibrate logits that are three times as large as they should be; also return the true logits."""
    rng = np.random.default_rng(0)
    targets = np.arange(PATIENTS) % 2
    true = rng.normal(size=PATIENTS) * 1.5 + np.where(targets == 1, 1.125, -1.125)  # log odds of two Gaussians
    logits = np.stack([np.zeros(PATIENTS), true], axis=1) * PLANTED
    sites = [f"{n // 15:02}" for n in range(PATIENTS)] if by_site else None
    cohort = make_cohort([1] * PATIENTS, ["a", "b"] * (PATIENTS // 2), sites)
    bags = Bags.pack({str(slide): np.zeros((1, 1), np.float32) for slide in cohort.slides})
    splits, folds = cross_validation(cohort, folds=3, repeats=repeats, by_site=by_site), []
    for split in splits:
        val, test = bags.index_of(split.val), bags.index_of(split.test)
        kept = KeptHead(HeadState({}, {}), SOFTMAX, val, logits[val], logits[test])
        outputs = SOFTMAX.one_by_one(torch.from_numpy(logits[test]))
        folds.append(FoldPrediction(split.repeat, split.fold, test, outputs, len(split.train), "", kept=kept))
    task = Classification(("a", "b"), targets)
    judgement = judge(task, cohort, splits, folds, by_site=by_site)
    found = calibrate(task, cohort, bags, splits, folds, judgement, sensitivity=sensitivity)
    assert found is not None
    return found, task, folds, true


def test_the_planted_temperature_is_found_and_scaling_calibrates() -> None:
    found, task, folds, true = calibrated()
    np.testing.assert_allclose(found.temperatures, PLANTED, rtol=0.35)
    means = {name: each.mean for name, each in found.estimates.items()}
    assert means["ece_scaled"] < 0.6 * means["ece"]
    assert means["brier_scaled"] < means["brier"]
    for fold, scaled, temperature in zip(folds, found.folds, found.temperatures, strict=True):
        chance = 1 / (1 + np.exp(-true[fold.rows] * PLANTED / temperature))
        np.testing.assert_allclose(scaled.outputs[:, 1], chance, atol=1e-9)
    pooled = np.concatenate([fold.rows for fold in folds]), np.concatenate([fold.outputs for fold in folds])
    assert means["ece"] == pytest.approx(expected_calibration_error(task.targets[pooled[0]], pooled[1]))
    scores = [brier_score_loss(task.targets[fold.rows], fold.outputs[:, 1]) for fold in found.folds]
    assert means["brier_scaled"] == pytest.approx(np.mean(scores))


@pytest.mark.parametrize("sensitivity", [None, 0.95])
def test_thresholds_come_from_the_validation_part_and_are_judged_on_the_test_part(sensitivity: float | None) -> None:
    found, task, folds, true = calibrated(sensitivity=sensitivity)
    recalls = np.zeros((2, len(folds)))
    for number, (fold, cut) in enumerate(zip(folds, found.thresholds, strict=True)):
        assert fold.kept is not None
        seen, temperature = fold.kept.val_rows, found.temperatures[number]
        scores = 1 / (1 + np.exp(-true[seen] * PLANTED / temperature))
        positive = task.targets[seen] == 1
        wanted = (
            youden_threshold(positive, scores)
            if sensitivity is None
            else sensitivity_threshold(positive, scores, sensitivity)
        )
        assert cut == pytest.approx(wanted)
        predicted = found.folds[number].outputs[:, 1] >= cut
        recalls[:, number] = recall_score(task.targets[fold.rows], predicted, labels=[0, 1], average=None)
    assert found.estimates["specificity"].mean == pytest.approx(recalls[0].mean())
    assert found.estimates["sensitivity"].mean == pytest.approx(recalls[1].mean())
    assert sensitivity is None or recalls[1].mean() > 0.88


def test_intervals_hold_the_mean_and_count_the_class_that_is_judged() -> None:
    found, *_ = calibrated(repeats=2)
    for name, each in found.estimates.items():
        assert each.interval.low < each.mean < each.interval.high, name
        assert each.interval.units == (PATIENTS // 2 if name in {"sensitivity", "specificity"} else PATIENTS)
    # A share of 150 patients of .8 or so has a standard error of .033, more with what folds share.
    width = found.estimates["sensitivity"].interval.high - found.estimates["sensitivity"].interval.low
    assert 0.1 < width < 0.2


def test_over_sites_the_error_of_all_folds_has_no_interval() -> None:
    found, *_ = calibrated(by_site=True)
    assert np.isnan(found.estimates["ece"].interval.low)
    assert "all folds together" in found.estimates["ece"].interval.reason
    assert found.estimates["brier"].interval.units == 20


def test_heads_without_stored_logits_have_no_calibration() -> None:
    _, task, folds, _ = calibrated()
    cohort = make_cohort([1] * PATIENTS, ["a", "b"] * (PATIENTS // 2))
    bags = Bags.pack({str(slide): np.zeros((1, 1), np.float32) for slide in cohort.slides})
    splits = cross_validation(cohort, folds=3)
    bare = [replace(fold, kept=None) for fold in folds]
    assert calibrate(task, cohort, bags, splits, bare, judge(task, cohort, splits, bare)) is None
