"""Training on the stain views of a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from slpd_toolkit.commands import pretrain
from slpd_toolkit.config.views import CropsConfig
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.objectives.crops import cut_crops, draw_crops, draw_stains
from slpd_toolkit.representations.cohort_bags import open_cache, represent_all
from slpd_toolkit.representations.opening import InferenceOptions, open_models
from slpd_toolkit.representations.sources import parse_sources
from slpd_toolkit.store.stain_folders import stain_folder
from slpd_toolkit.store.token_file import TokenStore
from slpd_toolkit.training import view_source
from tests.token_factory import LENGTHS, write_cache, write_slide
from tests.training.runs import assert_same_run, run_until, tiny

if TYPE_CHECKING:
    from pathlib import Path

    from slpd_toolkit.objectives.crops import Views

pytestmark = pytest.mark.usefixtures("no_curves")


def write_views(folder: Path, count: int = 2, *, gaps: float = 0.0) -> Path:
    """Write a cache with stain views whose tokens are those of the cache plus 10 times the number of the view."""
    cache = write_cache(folder / "cache", LENGTHS, gaps=gaps)
    for view in range(1, count + 1):
        stain_folder(cache, view).mkdir(parents=True)
        for file in TokenStore.open(cache).files:
            tokens = file.tokens.astype(np.float64) + 10 * view
            write_slide(stain_folder(cache, view), file.meta.slide_id, tokens, file.present)
    return cache


def test_each_crop_is_cut_from_its_stain() -> None:
    crops = CropsConfig(global_side=3, local_crops=3, local_side=2, flip_up_down=0.5, quarter_turns=0.7)
    source = torch.Generator().manual_seed(0)
    tokens = torch.randn(4, 3, 5, 6, 2, generator=source)
    present = torch.rand(4, 5, 6, generator=source) < 0.5
    plan, stains = draw_crops(crops, 4, (5, 6), source), draw_stains(5, 4, 3, source)
    found = cut_crops(tokens, crops, plan, present, stains)
    alone = [cut_crops(tokens[:, stain].contiguous(), crops, plan, present) for stain in range(3)]
    assert found.teacher_sees is not None
    for region in range(4):
        for view in range(2):
            expected = alone[int(stains[view, region])].global_crops[view, region]
            assert torch.equal(found.global_crops[view, region], expected)
        for view in range(3):
            expected = alone[int(stains[2 + view, region])].local_crops[view, region]
            assert torch.equal(found.local_crops[view, region], expected)
    assert alone[0].teacher_sees is not None
    assert torch.equal(found.teacher_sees.global_crops, alone[0].teacher_sees.global_crops)


def test_the_first_views_of_a_region_have_different_stains_and_all_are_equally_frequent() -> None:
    stains = draw_stains(10, 3000, 3, torch.Generator().manual_seed(0))
    assert all((stains[one] != stains[other]).all() for one, other in ((0, 1), (0, 2), (1, 2)))
    counts = torch.stack([(stains == stain).float().mean(dim=1) for stain in range(3)])
    torch.testing.assert_close(counts, torch.full_like(counts, 1 / 3), atol=0.03, rtol=0)


@pytest.mark.slow
def test_training_sees_regions_under_different_stains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, seen = write_views(tmp_path), list["Views"]()

    def watched(*given: Any) -> Views:
        seen.append(cut_crops(*given))
        return seen[-1]

    monkeypatch.setattr(view_source, "cut_crops", watched)
    run_until(monkeypatch, tiny(cache, tmp_path / "out", stain_views=2), 2)
    means = torch.cat([views.global_crops.float().mean(dim=(2, 3, 4)) for views in seen], dim=1)
    stains = (means / 10).round()
    assert set(stains.flatten().tolist()) == {0.0, 1.0, 2.0}
    assert (stains[0] != stains[1]).all()


@pytest.mark.slow
def test_a_run_on_stain_views_stopped_after_every_step_equals_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = write_views(tmp_path, gaps=1 / 3)
    changes: dict[str, Any] = {"stain_views": 2, "accumulate": 2, "token_noise": 0.3, "centering": "slide"}
    assert pretrain.run(tiny(cache, tmp_path / "whole", **changes)) == 0
    code = 1
    while code:
        code = run_until(monkeypatch, tiny(cache, tmp_path / "stopped", **changes), 2)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.slow
def test_a_run_is_not_resumed_on_other_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = write_views(tmp_path)
    run_until(monkeypatch, tiny(cache, tmp_path / "out", stain_views=2), 1)
    file = TokenStore.open(stain_folder(cache, 2)).files[0]
    write_slide(stain_folder(cache, 2), file.meta.slide_id, file.tokens.astype(np.float64) + 1)
    with pytest.raises(UsageError, match=r"cohort: 5 slides.*; stain view 5 slides"):
        pretrain.run(tiny(cache, tmp_path / "out", stain_views=2))
    with pytest.raises(UsageError, match="stain_views: 2 in the run, now 1"):
        pretrain.run(tiny(cache, tmp_path / "out", stain_views=1))


def test_a_cache_without_views_is_refused(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no stain views, 2 needed") as refused:
        pretrain.run(tiny(cache, tmp_path / "out", stain_views=2))
    assert "Imported caches have none" in refused.value.hint


def test_mean_tokens_are_averaged_over_stains(tmp_path: Path) -> None:
    cache = write_views(tmp_path)
    slides = [f"slide{number:03}" for number in range(5)]
    with open_cache(cache, torch.device("cpu"), 1) as opened:
        assert opened is not None
        models = open_models(
            parse_sources(("mean-tokens", "mean-of-stains")), opened, InferenceOptions("fp32", "full", 0, tmp_path)
        )
        one, mean = represent_all(models, slides, opened)
    np.testing.assert_allclose(mean.bags.features, one.bags.features + 10, atol=0.02)
    assert (mean.name, models[1].over_stains) == ("mean-of-stains", True)  # type: ignore[attr-defined]
