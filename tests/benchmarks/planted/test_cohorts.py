"""The planted cohort: exact checks of what distinguishes architectures and what must not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from benchmarks.planted.cohorts import (
    CACHE,
    MANIFEST,
    Architectures,
    Planted,
    TokenModel,
    Truth,
    draw_kinds,
    pair_off,
    plan,
    write_cohort,
)
from slpd_toolkit.core.manifest import read_table
from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.heads.fold_predictions import run_folds
from slpd_toolkit.mil.heads.training import HeadTraining
from slpd_toolkit.mil.tasks.kinds.classification import Classification
from slpd_toolkit.mil.tasks.kinds.ordinal import Ordinal
from slpd_toolkit.store.token_file import TokenStore

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SMALL = Planted(slides=12, regions=6, dim=6, grid=6)
QUIET = Planted(slides=12, regions=6, dim=6, noise=0, site_shift=0, slide_shift=0, region_shift=0, drift=0)


@pytest.mark.parametrize("kinds", [2, 4, 6, 8])
def test_each_pairing_uses_every_kind_once_and_no_pair_comes_twice(kinds: int) -> None:
    rounds = [pair_off(kinds, number) for number in range(kinds - 1)]
    for pairs in rounds:
        assert sorted(np.ravel(pairs)) == list(range(kinds))
    different = {frozenset(pair) for each in rounds for pair in each}
    assert len(different) == kinds * (kinds - 1) // 2


def neighbours_alike(kinds: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the fraction of neighboring tokens of the same kind, (R,)."""
    down, across = kinds[:, 1:] == kinds[:, :-1], kinds[:, :, 1:] == kinds[:, :, :-1]
    alike: NDArray[np.float64] = (down.mean(axis=(1, 2)) + across.mean(axis=(1, 2))) / 2
    return alike


def test_architectures_of_one_pair_have_equal_histograms_and_unlike_arrangements() -> None:
    planted = Planted(scales=(0.0, 1.0, 2.0))
    known = Architectures.of(planted)
    architectures = np.repeat(np.arange(len(known.scale)), 50)
    kinds = draw_kinds(planted, architectures, known, np.random.default_rng(0))
    for kind in range(planted.kinds):
        share = (kinds == kind).mean(axis=(1, 2))
        np.testing.assert_array_equal(share, 0.5 * (known.kinds[architectures] == kind).any(axis=1))
    alike = neighbours_alike(kinds)
    ranges = [np.quantile(alike[known.scale[architectures] == scale], (0.05, 0.95)) for scale in range(3)]
    assert ranges[0][1] < ranges[1][0]
    assert alike[known.scale[architectures] == 1].mean() < alike[known.scale[architectures] == 2].mean() - 0.05
    assert alike[known.scale[architectures] == 0].mean() == pytest.approx(
        31 / 63, abs=0.02
    )  # drawn without replacement


def test_without_noise_tokens_say_what_was_planted() -> None:
    model, truth = TokenModel(QUIET), plan(QUIET)
    for slide in range(QUIET.slides):
        own = truth.architecture[truth.slide_of_region == slide]
        tokens = model.draw(slide, int(truth.sites[slide]), own)
        distances = np.abs(tokens[..., None, :] - model.centres).max(axis=-1)
        assert (distances.min(axis=-1) == 0).all()
        found = [np.unique(kinds) for kinds in distances.argmin(axis=-1)]
        np.testing.assert_array_equal(found, np.sort(truth.kinds[own], axis=1))


@pytest.mark.parametrize(
    ("dial", "spread"),
    [
        ("noise", {"token": 2, "region": 0, "slide": 0}),
        ("drift", {"token": 2, "region": 0, "slide": 0}),
        ("region_shift", {"token": 0, "region": 2, "slide": 0}),
        ("slide_shift", {"token": 0, "region": 0, "slide": 2}),
        ("site_shift", {"token": 0, "region": 0, "slide": 2}),
    ],
)
def test_each_dial_moves_tokens_by_its_standard_deviation(dial: str, spread: dict[str, float]) -> None:
    """Measured on a cohort with a single kind: within regions, between regions, between slides."""
    loud: dict[str, Any] = {dial: 2.0}
    planted = replace(QUIET, slides=60, dim=64, shift_rank=64, sites=60, drift_scale=0, regions=20, **loud)
    model = TokenModel(planted)
    model.centres[:] = 0
    tokens = np.stack([model.draw(slide, slide, np.zeros(20, np.int64)) for slide in range(60)]).astype(np.float64)
    regions = tokens.mean(axis=(2, 3))
    found = {
        "token": (tokens - regions[:, :, None, None]).std(),
        "region": (regions - regions.mean(axis=1, keepdims=True)).std(),
        "slide": regions.mean(axis=1).std(),
    }
    for level, expected in spread.items():
        assert found[level] == pytest.approx(expected, rel=0.15, abs=0.6), level


@pytest.mark.slow
def test_a_seed_gives_one_cohort_slide_by_slide(tmp_path: Path) -> None:
    one, other = write_cohort(SMALL, tmp_path / "one"), write_cohort(SMALL, tmp_path / "other")
    names = sorted(path.name for path in (tmp_path / "one" / CACHE).iterdir())
    assert names == [f"{slide_id}.h5" for slide_id in one.slide_ids]
    stores = [TokenStore.open(tmp_path / name / CACHE) for name in ("one", "other")]
    for slide, again in zip(*(store.files for store in stores), strict=True):
        np.testing.assert_array_equal(slide.tokens, again.tokens)
    np.testing.assert_array_equal(one.architecture, other.architecture)
    assert (tmp_path / "one" / MANIFEST).read_text() == (tmp_path / "other" / MANIFEST).read_text()
    alone = TokenModel(SMALL).draw(7, int(one.sites[7]), one.architecture[one.slide_of_region == 7])
    np.testing.assert_array_equal(stores[0].files[7].tokens, alone.astype(np.float16))
    another = plan(Planted(slides=12, regions=6, seed=1))
    assert not np.array_equal(another.architecture[:20], one.architecture[:20])


def test_what_is_written_fits_together(tmp_path: Path) -> None:
    truth = write_cohort(SMALL, tmp_path)
    store, table, stored = TokenStore.open(tmp_path / CACHE), read_table(tmp_path / MANIFEST), Truth.read(tmp_path)
    assert store.slide_ids == tuple(table["slide_id"]) == tuple(truth.slide_ids)
    assert (store.grid, store.embedding_dim) == (6, 6)
    np.testing.assert_array_equal(store.lengths, np.bincount(truth.slide_of_region))
    np.testing.assert_array_equal(stored.architecture, truth.architecture)
    np.testing.assert_allclose(truth.mixture().sum(axis=1), 1)
    for column in ("label", "grade", "time", "event", "site"):
        assert (table.groupby("patient_id")[column].nunique() == 1).all(), column


def test_sizes_come_from_a_file_or_from_the_fitted_gamma(tmp_path: Path) -> None:
    np.save(tmp_path / "sizes.npy", np.array([10, 30]))
    sizes = np.bincount(plan(Planted(slides=200, regions=40, sizes=tmp_path / "sizes.npy")).slide_of_region)
    assert set(sizes) == {20, 60}
    drawn = np.bincount(plan(Planted(slides=1000, regions=54)).slide_of_region)
    assert drawn.mean() == pytest.approx(54, rel=0.05)
    assert drawn.std() == pytest.approx(27.0, rel=0.1)  # of TCGA-BRCA
    assert np.quantile(drawn, (0.05, 0.5, 0.95)) == pytest.approx((13, 51, 99), abs=8)


def test_slides_have_three_to_six_architectures_and_patients_up_to_three_slides() -> None:
    truth = plan(Planted(slides=300, regions=300, tendency=0.5))
    present = (truth.mixture() > 0).sum(axis=1)
    assert set(present) == {3, 4, 5, 6}
    counts = np.unique(truth.patients, return_counts=True)[1]
    assert (counts.sum(), counts.min(), counts.max()) == (300, 1, 3)


@pytest.mark.slow
@pytest.mark.parametrize("column", ["label", "grade"])
def test_the_true_mixture_tells_targets_and_the_histogram_of_kinds_does_not(column: str) -> None:
    truth = plan(Planted(slides=300))
    ids, values = truth.slide_ids, getattr(truth, column).astype(str)
    task = (Ordinal if column == "grade" else Classification).from_labels(ids, values)
    splits = cross_validation(Cohort(ids, truth.patients, task.strata), folds=5)
    mixture = truth.mixture()
    kinds = np.zeros((300, 4))
    for side in (0, 1):
        np.add.at(kinds.T, truth.kinds[:, side], mixture.T / 2)
    scores = []
    for vectors in (mixture, kinds):
        bags = Bags.pack({str(slide): vector[None] for slide, vector in zip(ids, vectors, strict=True)})
        folds = run_folds(bags, task, splits, "probe", training=HeadTraining(), seed=0, jobs=1)
        scores.append(np.mean([task.metrics(fold.rows, fold.outputs)[task.headline] for fold in folds]))
    nothing = 0.5 if column == "label" else 0
    assert scores[0] > 0.75
    assert abs(scores[1] - nothing) < 0.12
