from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from slpd_toolkit.core.errors import CacheError
from slpd_toolkit.report.scores import read_scores, write_scores
from tests.mutation import mutants
from tests.report.evaluations import REGION_L0, classification, planted_evaluation

if TYPE_CHECKING:
    from pathlib import Path

    from slpd_toolkit.mil.statistics.results import Evaluation


def evaluation(*, places: bool = True, repeats: int = 2) -> Evaluation:
    cohort, task = classification(24, ["a", "b"])
    strengths = {"slpd": 2.0, "dino/x": 1.0}
    return planted_evaluation(cohort, task, strengths, folds=3, repeats=repeats, places=places)


def test_scores_are_the_mean_attention_of_the_folds_that_tested_a_slide(tmp_path: Path) -> None:
    found = evaluation()
    write_scores(tmp_path / "scores.h5", found)
    tables = read_scores(tmp_path / "scores.h5")
    assert [(table.model, table.aggregator) for table in tables] == [("slpd", "abmil"), ("dino/x", "abmil")]
    result = next(each for each in found.results if (each.model, each.aggregator) == ("slpd", "abmil"))
    table, bags, places = tables[0], found.representations[0].bags, found.representations[0].places
    assert places is not None
    assert table.slide_ids == tuple(found.cohort.slides.tolist())
    for row in range(len(table.slide_ids)):
        slide = table.slide(row)
        seen = [
            fold.attention[place]
            for fold in result.folds
            for place, tested in enumerate(fold.rows.tolist())
            if tested == row
        ]
        assert len(seen) == 2
        np.testing.assert_allclose(slide.scores, np.mean(seen, axis=0))
        assert slide.scores.sum() == pytest.approx(1)
        np.testing.assert_array_equal(slide.coords_l0, places.coords_l0[bags.offsets[row] : bags.offsets[row + 1]])
        assert set(slide.sizes_l0.tolist()) == {REGION_L0}
        assert slide.slide_size_l0 == (4 * REGION_L0, 4 * REGION_L0)


def test_vectors_and_probes_have_no_scores(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.h5", evaluation(places=False))
    assert read_scores(tmp_path / "scores.h5") == ()


def damage(path: Path, how: str) -> None:
    if how == "no HDF5":
        path.write_bytes(b"nothing")
        return
    with h5py.File(path, "r+") as file:
        if how == "version":
            file.attrs["schema_version"] = 99
        elif how == "missing":
            del file["0/scores"]
        elif how == "overlap":
            file["0/offsets"][1] = file["0/offsets"][2]  # the second slide has no region
        elif how == "name":
            file.move("0", "first")
        else:
            data = file[f"0/{how}"][...]
            del file[f"0/{how}"]
            file[f"0/{how}"] = data[:-1] if how != "offsets" else data[::-1]


@pytest.mark.parametrize(
    "how", ["no HDF5", "version", "missing", "name", "coords_l0", "region_l0", "scores", "offsets", "overlap"]
)
def test_a_damaged_file_is_told(tmp_path: Path, how: str) -> None:
    path = tmp_path / "scores.h5"
    write_scores(path, evaluation(repeats=1))
    damage(path, how)
    with pytest.raises(CacheError, match=r"scores\.h5.*slpd mil-eval"):
        read_scores(path)


@pytest.mark.parametrize("count", [8, pytest.param(80, marks=pytest.mark.slow)])
def test_mutants_are_refused_or_equal(tmp_path: Path, count: int) -> None:
    path = tmp_path / "scores.h5"
    write_scores(path, evaluation())
    whole, wanted, refused = path.read_bytes(), read_scores(path), 0
    for mutant in mutants(whole, count, seed=4):
        path.write_bytes(mutant)
        try:
            found = read_scores(path)
        except CacheError as error:
            refused += "scores.h5" in error.message
            continue
        for one, other in zip(wanted, found, strict=True):
            for item in fields(one):
                np.testing.assert_array_equal(getattr(one, item.name), getattr(other, item.name))
    assert refused > count // 4
