from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import torch

from slpd_toolkit.config.region_vit import RegionViTConfig
from slpd_toolkit.core import console
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.models.region_vit import RegionViT
from slpd_toolkit.representations.models import Cache
from slpd_toolkit.representations.opening import InferenceOptions, mean_of_tissue, open_models
from slpd_toolkit.representations.sources import parse_sources
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.token_file import TokenStore
from slpd_toolkit.training.sampling import Stream, generator
from tests.token_factory import LENGTHS, META, write_cache

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slpd_toolkit.mil.statistics.results import Representation

SHAPE = RegionViTConfig(embed_dim=12, depth=1, heads=2)
IDS = [f"slide{number:03}" for number in range(len(LENGTHS))]


@pytest.fixture
def opened(cache: Path) -> Iterator[Cache]:
    store = TokenStore.open(cache)
    with closing(CohortTokens(store)) as tokens:
        yield Cache(store, tokens, torch.device("cpu"), workers=2)


def represent(
    model: str, cache: Cache, out: Path, slides: list[str], view: Literal["full", "centre"]
) -> Representation:
    frozen = InferenceOptions("fp32", view, seed=3, out=out)
    (opened,) = open_models(parse_sources([model]), cache, frozen)
    with console.progress("embed", total=1, unit="regions", shown=False) as bar:
        return opened.represent(slides, bar)


def save(folder: Path, provenance: dict[str, Any] | None = None, *, input_dim: int = 8, grid: int = 5) -> RegionViT:
    folder.mkdir(parents=True, exist_ok=True)
    network = RegionViT(SHAPE, torch.Generator().manual_seed(1), input_dim=input_dim, grid=grid).eval()
    network.save(folder / "region_vit.pt", provenance)
    return network


@pytest.mark.parametrize("view", ["full", "centre"])
def test_bags_are_what_the_network_says_of_each_region(
    opened: Cache, tmp_path: Path, view: Literal["full", "centre"]
) -> None:
    network = save(tmp_path / "run")
    slides = [IDS[3], IDS[0]]
    found = represent(str(tmp_path / "run"), opened, tmp_path, slides, view)
    assert found.bags.slides == tuple(slides)
    assert found.bags.sizes.tolist() == [LENGTHS[3], LENGTHS[0]]
    assert found.places is not None
    cut = slice(None) if view == "full" else slice(0, 5)
    for place, slide in enumerate(slides):
        file = opened.files[slide]
        with torch.inference_mode():
            expected = network(torch.tensor(np.array(file.tokens))[:, cut, cut])
        rows = slice(found.bags.offsets[place], found.bags.offsets[place + 1])
        np.testing.assert_array_equal(found.bags.features[rows], expected)
        np.testing.assert_array_equal(found.places.coords_l0[rows], file.coords)
        assert found.places.region_l0[place] == file.meta.region_l0
        assert found.places.slide_size_l0[place].tolist() == [META.slide_width_l0, META.slide_height_l0]


def test_which_slides_are_asked_for_changes_no_bit(opened: Cache, tmp_path: Path) -> None:
    save(tmp_path / "run")
    model = str(tmp_path / "run")
    alone = represent(model, opened, tmp_path, [IDS[2]], "full").bags
    after = represent(model, opened, tmp_path, IDS, "full").bags  # the first one is kept from before
    (tmp_path / "run" / "region_embeddings").rename(tmp_path / "away")
    fresh = represent(model, opened, tmp_path, IDS, "full").bags
    np.testing.assert_array_equal(after.features, fresh.features)
    np.testing.assert_array_equal(alone.features, fresh.features[fresh.offsets[2] : fresh.offsets[3]])


def test_the_untrained_one_is_where_pretraining_starts(opened: Cache, tmp_path: Path) -> None:
    save(tmp_path / "run")
    frozen = InferenceOptions("fp32", "full", seed=3, out=tmp_path)
    trained, blank = open_models(parse_sources([str(tmp_path / "run"), "untrained"]), opened, frozen)
    start = RegionViT(SHAPE, generator(3, Stream.WEIGHTS), input_dim=8, grid=5).eval()
    with console.progress("embed", total=1, unit="regions", shown=False) as bar:
        found = blank.represent(IDS[:1], bar).bags.features
        assert not np.allclose(found, trained.represent(IDS[:1], bar).bags.features)
    with torch.inference_mode():
        np.testing.assert_array_equal(found, start(torch.tensor(np.array(opened.files[IDS[0]].tokens))))


def test_tokens_without_tissue_do_not_count() -> None:
    rng = torch.Generator().manual_seed(0)
    grids = torch.randn(3, 2, 2, 4, generator=rng)
    tissue = torch.tensor([[[0.02, 1.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    present = torch.tensor([[True, True], [True, False]]).expand(3, 2, 2)
    found = mean_of_tissue(grids.half(), tissue.half())
    assert found.dtype == torch.float32
    expected = [(grids[0, 0, 0] + grids[0, 0, 1]) / 2, grids[1].mean(dim=(0, 1)), grids[2].mean(dim=(0, 1))]
    torch.testing.assert_close(found, torch.stack(expected), atol=2e-3, rtol=0)
    bare = mean_of_tissue(grids, tissue, present)[2]
    torch.testing.assert_close(bare, (grids[2, 0, 0] + grids[2, 0, 1] + grids[2, 1, 0]) / 3)


def test_mean_tokens_of_a_cache_with_gaps_leave_them_out(tmp_path: Path) -> None:
    store = TokenStore.open(write_cache(tmp_path / "cache", (4, 4), gaps=0.5))
    assert store.has_gaps
    with closing(CohortTokens(store)) as tokens:
        cache = Cache(store, tokens, torch.device("cpu"), workers=1)
        found = represent("mean-tokens", cache, tmp_path, ["slide001"], "full").bags.features
    file = store.files[1]
    assert file.present is not None
    expected = [
        tokens[here].astype(np.float32).mean(axis=0) for tokens, here in zip(file.tokens, file.present, strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "provenance", "said"),
    [
        ({"input_dim": 9}, None, "expects tokens with 9 features, but those in the cache have 8"),
        ({"grid": 7}, None, "was trained on 7 x 7 tokens, but regions in the cache have 6 x 6"),
        ({}, {"encoder_sha256": "1" * 64}, "was trained on tokens that differ .*encoder_sha256: '1111"),
        (
            {},
            {"patch_px": 128, "target_mpp": 0.25},
            "target_mpp: 0.25 in training, 0.5 in the cache, patch_px: 128 in training, 256 in the cache",
        ),
    ],
)
def test_a_model_that_does_not_fit_the_cache_is_refused(
    opened: Cache, tmp_path: Path, shape: dict[str, int], provenance: dict[str, Any] | None, said: str
) -> None:
    save(tmp_path / "run", provenance, **shape)
    with pytest.raises(UsageError, match=said):
        represent(str(tmp_path / "run"), opened, tmp_path, IDS, "full")


def test_a_precision_of_the_encoder_is_no_reason_to_refuse(opened: Cache, tmp_path: Path) -> None:
    save(tmp_path / "run", provenance={"precision": "bf16", "encoder": META.encoder})
    assert represent(str(tmp_path / "run"), opened, tmp_path, IDS, "full").bags.width == 12


def test_the_list_of_slides_must_be_one(opened: Cache, tmp_path: Path) -> None:
    save(tmp_path / "run")
    (tmp_path / "run" / "slides.csv").write_text("slide_id,regions\nslide000,3\n")
    found = represent(str(tmp_path / "run"), opened, tmp_path, IDS, "full")
    assert (found.pretraining_known, found.pretrained) == (True, frozenset({"slide000"}))
    (tmp_path / "run" / "slides.csv").write_text("slide,regions\nslide000,3\n")
    with pytest.raises(UsageError, match="does not list the slides of the run"):
        represent(str(tmp_path / "run"), opened, tmp_path, IDS, "full")
