"""Tokens relative to the mean token of their slide, in training and embedding."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import slpd_toolkit as slpd
from slpd_toolkit.commands import pretrain, represent
from slpd_toolkit.config.region_vit import RegionViTConfig
from slpd_toolkit.config.represent import RepresentConfig
from slpd_toolkit.models.region_vit import RegionViT
from slpd_toolkit.representations.region_embeddings import embed_regions
from slpd_toolkit.representations.slide_vectors import SlideVectors
from slpd_toolkit.store.centered_tokens import CenteredTokens
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.token_file import TokenFile, TokenStore
from tests.token_factory import LENGTHS, write_cache, write_slide
from tests.training.runs import tiny, weights

if TYPE_CHECKING:
    from pathlib import Path

SIDES = {"global_side": 2, "local_side": 1, "neighbours": 2, "epochs": 1, "prototype_epoch": 0}


def shifted(cache: Path, out: Path, size: float) -> Path:
    """Copy a cache, shifting the tokens of each slide by a separate vector."""
    out.mkdir()
    rng = np.random.default_rng(0)
    for path in sorted(cache.glob("*.h5")):
        file = TokenFile.open(path)
        # Multiples of 1/8 below 8 in tokens that are multiples of 1/64: sums are exact in float16.
        shift = np.round(size * rng.uniform(-1, 1, file.tokens.shape[-1]) * 8) / 8
        write_slide(out, path.stem, file.tokens.astype(float) + shift, file.present)
    return out


def coarse(folder: Path, *, gaps: float = 0.0) -> Path:
    """A cache whose tokens are multiples of 1/64, so that shifts are exact."""
    whole = write_cache(folder / "fine", LENGTHS, grid=2, gaps=gaps)
    out = folder / "coarse"
    out.mkdir()
    for path in sorted(whole.glob("*.h5")):
        file = TokenFile.open(path)
        write_slide(out, path.stem, np.round(file.tokens.astype(float) * 64) / 64, file.present)
    return out


def test_the_mean_over_tissue_patches_is_subtracted(tmp_path: Path) -> None:
    store = TokenStore.open(coarse(tmp_path, gaps=0.3))
    order = np.array([29, 0, 12, 9, 0, 20])
    with closing(CenteredTokens(store, CohortTokens(store))) as tokens:
        found = tokens.read(order)
        present = tokens.present(order)
    assert present is not None
    assert found.dtype == torch.float16
    for index, region in enumerate(order.tolist()):
        slide = int(np.searchsorted(np.cumsum(LENGTHS), region, side="right"))
        file = store.files[slide]
        here = np.ones(file.tokens.shape[:3], bool) if file.present is None else file.present
        mean = file.tokens[here & (file.tissue > 0)].astype(np.float64).mean(axis=0)
        wanted = file.tokens[region - sum(LENGTHS[:slide])] - mean
        there = present[index].numpy()
        np.testing.assert_allclose(found[index].numpy()[there], wanted[there], atol=2e-3)


def test_what_was_subtracted_stays_available(tmp_path: Path) -> None:
    cache = coarse(tmp_path, gaps=0.3)
    store = TokenStore.open(cache)
    expected = []
    for file in store.files:
        counted = file.tissue > 0
        expected.append(file.tokens[counted if file.present is None else counted & file.present].mean(0, np.float64))
    network = RegionViT(RegionViTConfig(embed_dim=8, heads=2, depth=1, centering="slide"), input_dim=8, grid=2)
    found = embed_regions(store, network, device="cpu", mean_tokens=True)
    plain = embed_regions(store, "mean-tokens", device="cpu", mean_tokens=True)
    assert found.mean_tokens is not None
    assert plain.mean_tokens is not None
    np.testing.assert_allclose(found.mean_tokens, expected, rtol=1e-6)
    np.testing.assert_array_equal(plain.mean_tokens, found.mean_tokens)
    network.save(tmp_path / "region_vit.pt")
    made = represent.make(
        RepresentConfig(
            model=str(tmp_path / "region_vit.pt"),
            cache=cache,
            out=tmp_path / "v.parquet",
            append_mean_token=True,
            device="cpu",
        )
    )
    back = SlideVectors.read(tmp_path / "v.parquet")
    assert back.descriptor == made.descriptor == "mean+mean-token"
    np.testing.assert_array_equal(back.bags.features, made.bags.features)
    np.testing.assert_array_equal(back.bags.features[:, 8:], found.mean_tokens)
    np.testing.assert_allclose(back.bags.features[:, :8], found.means, rtol=1e-5)


@pytest.mark.slow
def test_training_and_embeddings_do_not_depend_on_shifts_of_slides(tmp_path: Path) -> None:
    one = coarse(tmp_path)
    other = shifted(one, tmp_path / "shifted", size=4.0)
    runs = {}
    for name, cache, centering in (
        ("a", one, "slide"),
        ("b", other, "slide"),
        ("c", one, "none"),
        ("d", other, "none"),
    ):
        config = tiny(cache, tmp_path / name, centering=centering, **SIDES)
        assert pretrain.run(config) == 0
        runs[name] = weights(config.out)

    def distance(first: str, second: str) -> float:
        return max(float((runs[first][name] - runs[second][name]).abs().max()) for name in runs[first])

    assert distance("a", "b") < 1e-3 < distance("c", "d")
    assert RegionViT.from_file(tmp_path / "a").config.centering == "slide"
    embedded = [slpd.region_embeddings(cache, tmp_path / "a", device="cpu").values for cache in (one, other)]
    np.testing.assert_allclose(embedded[0], embedded[1], atol=5e-3)
    raw = [slpd.region_embeddings(cache, tmp_path / "c", device="cpu").values for cache in (one, other)]
    assert np.abs(raw[0] - raw[1]).max() > 0.05
