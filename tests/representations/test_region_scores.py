"""Scores of single regions, against the predictions of the evaluation that trained the heads."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.representations.region_scores import RegionScorer, held_out_folds
from slpd_toolkit.store.token_file import TokenFile
from tests.cohorts import read_csv
from tests.evaluations import Planted, two_classes
from tests.token_factory import write_slide

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return two_classes(tmp_path_factory.mktemp("cohort"), slides=18)


@pytest.fixture(scope="module")
def evaluation(cohort: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "eval"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slpd_toolkit.report.evaluation_folder.write_report", lambda path, *_: path.write_text("<html/>"))
        cohort.evaluate(out, steps=20, aggregator=("abmil", "probe"), folds=3)
    return out


def scorer(cohort: Planted, evaluation: Path) -> RegionScorer:
    def file_of(slide: str) -> TokenFile | None:
        path = cohort.cache / f"{slide}.h5"
        return TokenFile.open(path) if path.exists() else None

    return RegionScorer({"eval": evaluation}, file_of, torch.device("cpu"))


def test_the_mean_logit_of_regions_is_that_of_the_slide_for_a_linear_head(cohort: Planted, evaluation: Path) -> None:
    """The probe is linear in the mean of the regions; only the head that did not see the slide may be used."""
    found = scorer(cohort, evaluation)
    assert found.names == ("eval · mean-tokens · abmil", "eval · mean-tokens · probe")
    reported = [row for row in read_csv(evaluation / "predictions.csv") if row["aggregator"] == "probe"]
    for row in reported[:4]:
        scores = found.scores("eval · mean-tokens · probe", row["slide_id"])
        assert scores.classes == ("a", "b")
        assert scores.about == "heads that did not see this slide in training (1 of 3)"
        logits = np.log(scores.values[:, 1] / scores.values[:, 0])
        slide = np.log(float(row["probability_b"]) / float(row["probability_a"]))
        assert logits.mean() == pytest.approx(slide, rel=1e-3)


def test_a_slide_of_one_region_has_the_score_of_the_slide(cohort: Planted, evaluation: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(cohort.cache, tmp_path / "cache")
    tokens = np.asarray(TokenFile.open(copy / "s000.h5").tokens[:1])
    write_slide(copy, "new", tokens)
    new = Planted(copy, cohort.manifest)
    found = scorer(new, evaluation).scores("eval · mean-tokens · abmil", "new")
    first = scorer(cohort, evaluation).scores("eval · mean-tokens · abmil", "s000")
    assert found.about == "all 3 heads; none was tested on this slide"
    assert found.values.shape == (1, 2)
    assert first.values.shape == (len(TokenFile.open(cohort.cache / "s000.h5")), 2)
    assert found.values.sum() == pytest.approx(1)


def test_what_cannot_be_scored_says_why(cohort: Planted, evaluation: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gone has no tokens"):
        scorer(cohort, evaluation).scores("eval · mean-tokens · probe", "gone")
    write_slide(tmp_path, "other", np.zeros((2, 2, 2, 8)), encoder="another")
    with pytest.raises(UsageError, match="encoder: 'planted' in the bundle, 'another' here"):
        scorer(Planted(tmp_path, cohort.manifest), evaluation).scores("eval · mean-tokens · probe", "other")
    assert held_out_folds(tmp_path) == {}
    assert RegionScorer({"none": tmp_path}, lambda _: None, torch.device("cpu")).names == ()
