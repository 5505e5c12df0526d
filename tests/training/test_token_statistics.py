from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.token_file import TokenFile, TokenStore
from slpd_toolkit.training import token_statistics as spread
from slpd_toolkit.training.sampling import Stream, generator
from slpd_toolkit.training.token_statistics import sample_tokens
from tests.token_factory import write_cache, write_slide

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from slpd_toolkit.objectives.augment import TokenStatistics


def present_tokens(cache: Path) -> np.ndarray:
    """Return all present tokens, (n, D)."""
    files = [TokenFile.open(path) for path in sorted(cache.glob("*.h5"))]
    return np.concatenate(
        [file.tokens.reshape(-1, 8) if file.present is None else file.tokens[file.present] for file in files]
    ).astype(float)


def sample(cache: Path, seed: int = 0) -> TokenStatistics:
    tokens = CohortTokens(TokenStore.open(cache))
    found = sample_tokens(tokens, generator(seed, Stream.SPREAD))
    tokens.close()
    return found


def measure(cache: Path, seed: int = 0) -> torch.Tensor:
    return sample(cache, seed).spread


def test_each_region_has_the_mean_of_the_tokens_that_it_has(cache: Path, gappy_cache: Path) -> None:
    for folder in (cache, gappy_cache):
        expected = []
        for path in sorted(folder.glob("*.h5")):
            file = TokenFile.open(path)
            for region, tokens in enumerate(file.tokens):
                expected.append(
                    tokens[... if file.present is None else file.present[region]].reshape(-1, 8).mean(0, float)
                )
        np.testing.assert_allclose(sample(folder).region_means.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_cohort_within_the_sample_is_measured_whole_and_without_its_gaps(cache: Path, gappy_cache: Path) -> None:
    for folder in (cache, gappy_cache):
        found = measure(folder)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), present_tokens(folder).std(axis=0), rtol=1e-6)


def test_a_sample_of_a_larger_one_is_near_and_follows_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "SAMPLE", 60)
    cache = write_cache(tmp_path, (40,) * 10)
    found, again, other = measure(cache), measure(cache), measure(cache, seed=1)
    assert torch.equal(found, again)
    assert not torch.equal(found, other)
    np.testing.assert_allclose(found.numpy(), present_tokens(cache).std(axis=0), rtol=0.1)


def test_a_feature_that_does_not_vary_has_no_spread(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).standard_normal((9, 6, 6, 8))
    tokens[..., 3] = 1000.0
    write_slide(tmp_path, "slide000", tokens)
    found = measure(tmp_path)
    assert found[3] == 0
    assert (found[[0, 1, 2, 4, 5, 6, 7]] > 0.5).all()
