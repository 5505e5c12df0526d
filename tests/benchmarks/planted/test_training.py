"""Training learns the planted structure, by a margin that a broken objective does not reach. Fifteen seconds per test.

The measure is the purity of the clusters of each slide (normalized mutual information with the true architectures),
for region embeddings compared with mean tokens, whose clusters are poor because of drift within regions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from benchmarks.planted.ablate import embed, purity, regions, shuffled_prototypes, slide_clusters
from benchmarks.planted.cohorts import CACHE, Planted, Truth, write_cohort
from slpd_toolkit.commands import pretrain
from slpd_toolkit.config.pretrain import PretrainConfig
from slpd_toolkit.config.recipe import build
from slpd_toolkit.models.region_vit import REGION_VIT, RegionViT
from slpd_toolkit.objectives.crops import cut_crops
from slpd_toolkit.objectives.slpd import Slpd
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.token_file import TokenStore
from slpd_toolkit.training import view_source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slpd_toolkit.objectives.crops import Views

CLUSTERS = 4
PLANTED = Planted(
    slides=40,
    regions=20,
    grid=6,
    dim=48,
    pairings=3,
    scales=(1.0,),
    drift=1.5,
    drift_scale=1.2,
    region_shift=0.3,
    slide_shift=0.3,
    site_shift=0.2,
    seed=3,
)
SETTINGS: dict[str, Any] = {
    "seed": 3,
    "epochs": 26,
    "batch_size": 40,
    "prototype_epoch": 10,
    "clusters": CLUSTERS,
    "min_regions": 8,
    "intra_weight": 4.0,
    "inter_weight": 4.0,
    "global_side": 4,
    "local_side": 2,
    "local_crops": 4,
    "embed_dim": 48,
    "depth": 2,
    "heads": 4,
    "mlp_ratio": 2.0,
    "drop_path": 0.0,
    "hidden_dim": 96,
    "bottleneck_dim": 48,
    "out_dim": 256,
    "lr": 0.006,
    "warmup_epochs": 2,
    "teacher_momentum": 0.98,
    "weight_decay_end": 0.1,
    "workers": 1,
    "device": "cpu",
    "precision": "fp32",
}


MARGIN = 0.23
"""Here training gains 0.35, shuffled prototypes 0.11, the other broken steps nothing. With seeds 1, 2 and 4 training
gains 0.27, 0.24 and 0.47, shuffled prototypes 0.12, 0.07 and 0.23."""


def no_teacher_update(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Slpd, "update_teacher", lambda _slpd, _momentum: None)


def zeroed_crops(patch: pytest.MonkeyPatch) -> None:
    def zeros(*arguments: Any) -> Views:
        views = cut_crops(*arguments)
        return views._replace(global_crops=views.global_crops * 0, local_crops=views.local_crops * 0)

    patch.setattr(view_source, "cut_crops", zeros)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    folder = tmp_path_factory.mktemp("planted")
    return folder, write_cohort(PLANTED, folder)


def purity_gained(cohort: tuple[Path, Truth], out: Path) -> float:
    """Return the gain in purity of clusters of trained region embeddings over those of mean tokens."""
    folder, truth = cohort
    store = TokenStore.open(folder / CACHE)
    pretrain.run(build(PretrainConfig, {"cache": folder / CACHE, "out": out, **SETTINGS}))
    trained = embed(RegionViT.from_file(out / REGION_VIT), CohortTokens(store))
    means = np.concatenate([slide.tokens.mean(axis=(1, 2), dtype=np.float32) for slide in store.files])
    found, baseline = (purity(slide_clusters(each, truth, CLUSTERS, 0), truth) for each in (trained, means))
    return found - baseline


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.usefixtures("no_curves")
def test_a_trained_region_vit_beats_mean_tokens(cohort: tuple[Path, Truth], tmp_path: Path) -> None:
    assert purity_gained(cohort, tmp_path / "run") > MARGIN


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.usefixtures("no_curves")
@pytest.mark.parametrize("break_it", [no_teacher_update, zeroed_crops])
def test_a_broken_step_does_not(
    cohort: tuple[Path, Truth],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[pytest.MonkeyPatch], None],
) -> None:
    break_it(monkeypatch)
    assert purity_gained(cohort, tmp_path / "run") < MARGIN


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.usefixtures("no_curves")
def test_shuffled_prototypes_do_not(cohort: tuple[Path, Truth], tmp_path: Path) -> None:
    with shuffled_prototypes(0):
        assert purity_gained(cohort, tmp_path / "run") < MARGIN


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.usefixtures("no_curves")
def test_region_offsets_break_the_shortcut_of_shifted_regions(tmp_path: Path) -> None:
    """If whole regions are shifted, views agree on the shift; with random offsets, they agree on the kinds."""
    truth = write_cohort(replace(PLANTED, drift=0.5, region_shift=1.0, slide_shift=0.3, site_shift=0.3), tmp_path)
    dino = SETTINGS | {"intra_weight": 0.0, "inter_weight": 0.0, "epochs": 40}
    accuracy = {}
    for offset in (0.0, 0.7):
        out = tmp_path / f"run{offset}"
        pretrain.run(build(PretrainConfig, {"cache": tmp_path / CACHE, "out": out, **dino, "region_offset": offset}))
        store = TokenStore.open(tmp_path / CACHE)
        accuracy[offset] = regions(embed(RegionViT.from_file(out / REGION_VIT), CohortTokens(store)), truth)
    assert accuracy[0.0]["regions knn"] < 0.5
    assert accuracy[0.7]["regions knn"] > 0.8
