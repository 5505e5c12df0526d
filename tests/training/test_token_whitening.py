"""Whitening of tokens against differences between slides: the map, its storage, and its use."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import slpd_toolkit as slpd
from slpd_toolkit.commands import pretrain
from slpd_toolkit.config.region_vit import RegionViTConfig
from slpd_toolkit.core.errors import WeightsError
from slpd_toolkit.models.region_vit import RegionViT
from slpd_toolkit.models.weights import read_checkpoint
from slpd_toolkit.representations.exports.weights import without_whitening, write_weights
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.token_file import TokenStore
from slpd_toolkit.training.token_whitening import (
    SMOOTHING,
    STRENGTH,
    map_of_kinds,
    whiten_between_slides,
    whiten_within_kinds,
    wiener_filter,
)
from tests.token_factory import LENGTHS, write_cache
from tests.training.runs import assert_same_run, run_until, tiny, weights

if TYPE_CHECKING:
    from pathlib import Path

SIDES = {"global_side": 2, "local_side": 1, "neighbours": 2, "whitening": "between-slides"}


def test_the_map_is_the_inverse_root_of_the_smoothed_covariance_of_slide_means(tmp_path: Path) -> None:
    store = TokenStore.open(write_cache(tmp_path / "cache", LENGTHS, grid=2, gaps=0.3))
    with closing(CohortTokens(store)) as tokens:
        found = whiten_between_slides(tokens, store, torch.Generator().manual_seed(0))
        centered = whiten_between_slides(tokens, store, torch.Generator().manual_seed(0), centered=True)
    means, rows = [], []
    for file in store.files:  # plain loops over all tissue patches that have a token
        own = []
        for region in range(len(file)):
            there = np.ones((2, 2), bool) if file.present is None else file.present[region]
            tissue = there & (file.tissue[region] > 0)
            own += list(file.tokens[region][tissue if tissue.any() else there].astype(np.float64))
        if own:
            means.append(np.mean(own, axis=0))
            rows += [token - means[-1] for token in own]
    width = len(means[0])
    between = np.cov(np.array(means).T)
    smooth = between + SMOOTHING * np.trace(between) / width * np.eye(width)
    root = found.matrix.double().numpy()
    scaled = root @ smooth @ root  # a multiple of the identity
    np.testing.assert_allclose(scaled, np.eye(width) * scaled[0, 0], atol=1e-5 * scaled[0, 0])
    total = np.cov(np.array(rows).T, bias=True) + between
    assert (
        abs(np.trace(root @ total @ root) / width - 1) < 0.02
    )  # the mean of the rows of a slide is 0, all but rounding
    np.testing.assert_allclose(found.mean.numpy(), np.mean(means, axis=0), atol=1e-5)
    assert not centered.mean.any()


def test_one_slide_leaves_directions_as_they_are(tmp_path: Path) -> None:
    store = TokenStore.open(write_cache(tmp_path / "cache", [5], grid=2))
    with closing(CohortTokens(store)) as tokens:
        found = whiten_between_slides(tokens, store, torch.Generator().manual_seed(0))
    matrix = found.matrix.numpy()
    np.testing.assert_allclose(matrix, np.eye(len(matrix)) * matrix[0, 0], atol=1e-6)


def test_networks_apply_the_map_and_can_contain_it(tmp_path: Path) -> None:
    config = RegionViTConfig(embed_dim=12, depth=1, heads=2, drop_path=0.0, whitening="between-slides", registers=2)
    network = RegionViT(config, torch.Generator().manual_seed(0), input_dim=6, grid=3).eval()
    assert not network.phi.has_map
    tokens, mean, half = torch.randn(4, 3, 3, 6), torch.randn(6), torch.randn(6, 6)
    matrix = half @ half.T
    network.phi.set_map(mean, matrix)
    folded = without_whitening(network)
    assert "phi.token_map" not in folded.state_dict()
    torch.testing.assert_close(folded(tokens), network(tokens), atol=1e-4, rtol=1e-4)
    plain = RegionViT(folded.config, input_dim=6, grid=3).eval()
    plain.load_state_dict({name: values for name, values in network.state_dict().items() if "token_m" not in name})
    torch.testing.assert_close(plain((tokens - mean) @ matrix), network(tokens), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(plain(tokens), network(tokens), atol=1e-2)
    network.save(tmp_path / "region_vit.pt")
    torch.testing.assert_close(RegionViT.from_file(tmp_path / "region_vit.pt")(tokens), network(tokens))
    assert network.last_attention(tokens).shape == (4, 2, 10)
    write_weights(tmp_path / "region_vit.pt", "hipt", tmp_path / "hipt.pth")
    assert "backbone.phi.token_map" not in read_checkpoint(tmp_path / "hipt.pth")["teacher"]


def test_a_map_of_another_kind_is_not_kept_under_a_new_name(tmp_path: Path) -> None:
    shape: dict[str, Any] = {"embed_dim": 12, "depth": 1, "heads": 2, "drop_path": 0.0}
    old = RegionViT(RegionViTConfig(**shape, whitening="within-kinds"), input_dim=6, grid=3)
    old.save(tmp_path / "region_vit.pt")
    with pytest.raises(WeightsError, match="has whitening 'within-kinds', this network 'wiener'") as caught:
        RegionViT(RegionViTConfig(**shape, whitening="wiener"), input_dim=6, grid=3).load_file(tmp_path)
    assert caught.value.hint == "Use --whitening within-kinds."
    RegionViT(RegionViTConfig(**shape, whitening="within-kinds"), input_dim=6, grid=3).load_file(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("no_curves")
def test_a_run_with_a_filter_resumes_with_its_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = write_cache(tmp_path / "cache", LENGTHS, grid=2)
    whole, parts = (
        tiny(cache, tmp_path / name, **SIDES | {"whitening": "wiener", "pooling": "cls+mean+input"})
        for name in ("whole", "parts")
    )
    assert pretrain.run(whole) == 0
    for steps in (1, 4):
        assert run_until(monkeypatch, parts, steps) == 143
        assert RegionViT.from_file(parts.out).phi.has_map
        assert RegionViT.from_file(parts.out).config.pooling == "cls+mean+input"
    assert pretrain.run(parts) == 0
    assert_same_run(whole.out, parts.out)


@pytest.mark.slow
@pytest.mark.usefixtures("no_curves")
def test_runs_store_the_map_and_resume_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = write_cache(tmp_path / "cache", LENGTHS, grid=2)
    whole, parts = (tiny(cache, tmp_path / name, registers=1, **SIDES) for name in ("whole", "parts"))
    assert pretrain.run(whole) == 0
    assert run_until(monkeypatch, parts, 4) == 143
    assert pretrain.run(parts) == 0
    one, other = weights(whole.out), weights(parts.out)
    assert all(torch.equal(one[name], other[name]) for name in one)
    network = RegionViT.from_file(whole.out)
    assert network.phi.has_map
    embedded = slpd.region_embeddings(cache, whole.out, device="cpu").values
    first = torch.from_numpy(TokenStore.open(cache).files[0].tokens[:1]).float()
    torch.testing.assert_close(network(first), torch.from_numpy(embedded[:1]), atol=1e-4, rtol=1e-4)
    folded = without_whitening(network)
    torch.testing.assert_close(folded(first), network(first), atol=1e-3, rtol=1e-3)
    again = tiny(
        cache, tmp_path / "again", registers=1, init=whole.out, **(SIDES | {"epochs": 1, "prototype_epoch": 9})
    )
    assert pretrain.run(again) == 0
    assert torch.equal(RegionViT.from_file(again.out).phi.token_map, network.phi.token_map)


def kinds_and_slides(rng: np.random.Generator, shift: float = 0.7) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Draw tokens of 30 slides: 4 kinds in proportions that differ, and shifts of slides along feature 0."""
    centers, stain = np.zeros((4, 8)), np.zeros(8)
    centers[:, 1:4] = 3 * np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, -1, -1]])
    stain[0] = shift
    slides = []
    for _ in range(30):
        kinds = rng.choice(4, 400, p=rng.dirichlet(np.ones(4)))
        tokens = centers[kinds] + rng.standard_normal() * stain + 0.5 * rng.standard_normal((400, 8))
        slides.append(tokens.astype(np.float32))
    return slides, centers, stain


def test_differences_in_composition_are_kept_and_shifts_of_the_same_kind_scaled_down() -> None:
    slides, centers, stain = kinds_and_slides(np.random.default_rng(0))
    within_kinds = map_of_kinds(slides).matrix.double().numpy()
    means = np.array([slide.mean(axis=0) for slide in slides])
    between = np.cov(means.T)
    values, vectors = np.linalg.eigh(between + SMOOTHING * np.trace(between) / 8 * np.eye(8))
    of_means = vectors @ np.diag(values**-0.5) @ vectors.T
    kept, lost = (
        np.linalg.norm((centers[0] - centers[1]) @ matrix) / np.linalg.norm(stain @ matrix)
        for matrix in (within_kinds, of_means)
    )
    plain = np.linalg.norm(centers[0] - centers[1]) / np.linalg.norm(stain)
    assert lost < plain  # means of slides differ most in what the slides are composed of
    assert kept > 3 * plain
    variance = np.trace(within_kinds @ np.cov(np.concatenate(slides).T) @ within_kinds) / 8
    assert variance == pytest.approx(1, abs=0.01)


def test_the_filter_scales_each_direction_by_what_is_not_a_shift_of_slides() -> None:
    """Kinds along features 1 to 3, shifts along 0, other features with variances from 0.01 to 100."""
    rng = np.random.default_rng(1)
    slides, centers, stain = kinds_and_slides(rng)
    slides = [
        np.hstack((slide, rng.standard_normal((len(slide), 3)) * (0.1, 1, 10))).astype(np.float32) for slide in slides
    ]
    found, whitened = (map_of_kinds(slides, wiener=wiener).matrix.double().numpy() for wiener in (True, False))
    gains = np.diag(found)
    np.testing.assert_allclose(found, np.diag(gains), atol=0.12 * gains.max())
    variance = np.cov(np.concatenate(slides).T)
    assert np.trace(found @ variance @ found) / 11 == pytest.approx(1, abs=0.01)
    fraction = np.var([slide[:, 0].mean() for slide in slides], ddof=1) / variance[0, 0]
    assert gains[0] / gains[-1] == pytest.approx(1 / (1 + STRENGTH * fraction), rel=0.5)
    np.testing.assert_allclose(gains[[8, 9, 10]], gains[8], rtol=0.35)  # as they are, whatever their variance
    distance = np.linalg.norm(centers[0] - centers[1])
    kept = np.linalg.norm((centers[0] - centers[1]) @ found[:8]) / np.linalg.norm(stain @ found[:8])
    assert kept > 3 * distance / np.linalg.norm(stain)
    assert whitened[8, 8] > 2 * whitened[10, 10]


def test_the_filter_is_that_of_wiener_in_any_basis() -> None:
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    shifts, tokens = np.array([4.0, 0.0, 0.1, 1.0]), np.array([5.0, 0.01, 0.2, 3.0])
    found = wiener_filter((basis * shifts) @ basis.T, (basis * tokens) @ basis.T)
    gains = np.diag(basis.T @ found @ basis)
    np.testing.assert_allclose(gains / gains[1], tokens / (tokens + STRENGTH * shifts), rtol=0.02)
    np.testing.assert_allclose((gains**2 * tokens).mean(), 1)
    np.testing.assert_allclose((basis * gains) @ basis.T, found, atol=1e-9)


def test_the_filter_of_slides_that_do_not_differ_is_the_identity() -> None:
    tokens = np.random.default_rng(0).standard_normal((200, 5)).astype(np.float32) * (1, 2, 3, 4, 5)
    found = map_of_kinds([tokens.astype(np.float32)] * 3, wiener=True).matrix
    torch.testing.assert_close(found, torch.eye(5) * found[0, 0], atol=1e-3, rtol=0)


def test_maps_within_kinds_repeat_and_withstand_tiny_cohorts(tmp_path: Path) -> None:
    store = TokenStore.open(write_cache(tmp_path / "cache", LENGTHS, grid=2, gaps=0.3))
    with closing(CohortTokens(store)) as tokens:
        maps = [whiten_within_kinds(tokens, store, torch.Generator().manual_seed(0)) for _ in range(2)]
        centered = whiten_within_kinds(tokens, store, torch.Generator().manual_seed(0), centered=True)
    assert torch.equal(maps[0].matrix, maps[1].matrix)
    torch.testing.assert_close(maps[0].matrix, maps[0].matrix.T)
    assert not centered.mean.any()
    one = map_of_kinds([np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)]).matrix
    torch.testing.assert_close(one, torch.eye(4) * one[0, 0], atol=1e-4, rtol=0)
