"""Semi-real cohorts: transforms of tiles, their tokens, and which of them a slide gets."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.planted.ablate import TILES, Unit, write_data
from benchmarks.planted.cohorts import CACHE, Planted, plan
from benchmarks.semireal import tiles as tiles_module
from benchmarks.semireal.cohorts import TILE_COHORTS, TileModel
from benchmarks.semireal.tiles import Scanner, Tiles, Transform, draw_transforms, encode, read_tiles
from slpd_toolkit.encoders.registry import make_encoder
from slpd_toolkit.encoders.stain import StainChange
from slpd_toolkit.store.stain_views import open_stain_views
from slpd_toolkit.store.token_file import TokenStore

if TYPE_CHECKING:
    from pathlib import Path

NO_STAIN = StainChange(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
IDEAL = Scanner(glass=(1.0, 1.0, 1.0), gamma=(1.0, 1.0, 1.0), focus_px=1e-3, jpeg_quality=100)


def numbered(dim: int = 3, per_kind: int = 8, sites: int = 4, batches: int = 2) -> Tiles:
    """Return tiles whose tokens are their transform, their number and their kind."""
    count, kind = 1 + sites * batches, np.repeat(np.arange(4), per_kind)
    tokens = np.zeros((count, len(kind), dim), np.float16)
    tokens[:, :, 0] = np.arange(count)[:, None]
    tokens[:, :, 1], tokens[:, :, 2] = np.arange(len(kind)), kind
    site = np.concatenate([[-1], np.repeat(np.arange(sites), batches)])
    return Tiles(tokens, kind, site, np.array(["AC", "H", "T", "V"]), "0" * 64, tokens[None] + np.float16(100))


def test_an_ideal_scanner_returns_the_tile_up_to_jpeg() -> None:
    tile = np.kron(np.random.default_rng(0).integers(40, 250, (4, 4, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    seen = Transform(0, 0, NO_STAIN, IDEAL).apply(tile)
    assert np.median(np.abs(seen.astype(int) - tile)) <= 1  # chroma is subsampled at edges


def test_darker_glass_and_gamma_act_on_each_channel() -> None:
    tile = np.full((32, 32, 3), 128, np.uint8)
    scanner = Scanner(glass=(0.5, 1.0, 1.0), gamma=(1.0, 2.0, 1.0), focus_px=1e-3, jpeg_quality=100)
    seen = Transform(0, 0, NO_STAIN, scanner).apply(tile)[16, 16].astype(int)
    np.testing.assert_allclose(seen, [64, 255 * (128 / 255) ** 2, 128], atol=2)


def test_transforms_do_not_depend_on_how_many_there_are() -> None:
    few, many = draw_transforms(2, 1, 7), draw_transforms(4, 3, 7)
    assert few == [many[0], many[3]]
    assert len({transform.scanner for transform in many}) == 4
    assert len({transform.stain for transform in many}) == 12


def test_the_command_encodes_each_tile_once_per_transform_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for tissue in ("AC", "H"):
        (tmp_path / "tiles" / tissue).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(
                tmp_path / "tiles" / tissue / f"{number}.png"
            )
    out = tmp_path / "out.npz"
    command = ["tiles", f"{tmp_path / 'tiles'}", "--out", f"{out}", "--tissues", "AC", "H", "--sites", "1"]
    command += ["--batches", "2", "--encoder", "handcrafted", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "--stop-after-s", "0"])
    tiles_module.main()
    assert not out.exists()
    monkeypatch.setattr(sys, "argv", command)
    tiles_module.main()
    found = Tiles.read(out)
    assert found.tokens.shape == (3, 6, 37)
    np.testing.assert_array_equal(found.site, [-1, 0, 0])
    np.testing.assert_array_equal(found.kind, [0, 0, 0, 1, 1, 1])
    encoder = make_encoder("handcrafted", weights=None, patch_px=64, seed=0, allow_download=False)
    images = read_tiles(tmp_path / "tiles", "H", 400)
    for number, transform in enumerate([None, *draw_transforms(1, 2, 0)]):
        np.testing.assert_array_equal(found.tokens[number, 3:], encode(encoder, images, transform))
    pixels = torch.from_numpy(np.stack(images))
    np.testing.assert_array_equal(found.tokens[0, 3:], encoder.embed(pixels, "fp32").numpy().astype(np.float16))


def test_a_slide_has_the_tiles_of_its_patient_under_one_batch_of_its_site() -> None:
    tiles, planted = numbered(), Planted(slides=16, regions=6, grid=6, dim=3, pairings=3, site_shift=1.0)
    model, truth = TileModel(planted, tiles), plan(planted)
    used = set()
    for slide, patient in enumerate(model.patient_of_slide):
        own = truth.architecture[truth.slide_of_region == slide]
        tokens = model.draw(slide, int(truth.sites[slide]), own)
        np.testing.assert_array_equal(tokens, model.draw(slide, int(truth.sites[slide]), own))
        (transform,) = np.unique(tokens[..., 0])
        used.add(int(transform))
        assert tiles.site[int(transform)] == truth.sites[slide]
        assert set(np.unique(tokens[..., 1]).astype(int)) <= set(np.concatenate(model.tiles_of(int(patient))).tolist())
        for region, architecture in zip(tokens[..., 2], own, strict=True):  # half of each kind of the architecture
            found, counts = np.unique(region, return_counts=True)
            np.testing.assert_array_equal(found, sorted(truth.kinds[architecture]))
            np.testing.assert_array_equal(counts, [18, 18])
    assert len(used) > 4


def test_without_a_shift_all_slides_have_the_tiles_as_they_are() -> None:
    planted = Planted(slides=6, regions=4, grid=6, dim=3, site_shift=0.0)
    model = TileModel(planted, numbered())
    assert all((model.draw(slide, 1, np.zeros(3, int))[..., 0] == 0).all() for slide in range(6))


def test_too_few_sites_are_refused() -> None:
    with pytest.raises(ValueError, match="4 kinds and 4 sites; the tiles have 4 tissues and 2 sites"):
        TileModel(Planted(site_shift=1.0), numbered(sites=2))


@pytest.mark.parametrize("composition", [True, False])
def test_only_composition_shows_in_the_token_histogram(composition: bool) -> None:
    planted = Planted(slides=400, regions=20, pairings=3, scales=(1.0,), composition=composition)
    truth = plan(planted)
    tumor = truth.mixture() @ (truth.kinds == 0).any(axis=1)
    difference = abs(tumor[truth.label == "a"].mean() - tumor[truth.label == "b"].mean())
    assert (difference > 0.2) == composition
    assert composition or difference < 0.1


@pytest.mark.slow
def test_the_driver_writes_a_cohort_from_tiles(tmp_path: Path) -> None:
    tiles = numbered()
    np.savez(
        tmp_path / TILES,
        tokens=tiles.tokens, kind=tiles.kind, site=tiles.site, tissues=tiles.tissues, encoder_sha256="0" * 64,
        stained=tiles.stained,
    )  # fmt: skip
    unit = Unit(tmp_path, "colon composition shift", 3, "mean tokens")
    truth = write_data(unit)
    store = TokenStore.open(unit.data / CACHE)
    assert store.embedding_dim == 3
    (view,) = open_stain_views(store, 1)
    np.testing.assert_array_equal(view.files[5].tokens, store.files[5].tokens + np.float16(100))
    assert len(store.files) == len(truth.slide_ids) == TILE_COHORTS[unit.cohort]["slides"]
