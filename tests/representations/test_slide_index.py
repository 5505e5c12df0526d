from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.vectors import CosineIndex
from slpd_toolkit.mil.set_similarity import Sets
from slpd_toolkit.representations.slide_index import SlideIndex, table_of
from tests.mil.test_set_similarity import exact

if TYPE_CHECKING:
    from pathlib import Path

RNG = np.random.default_rng(0)


def random_index(slides: int = 30, clusters: int = 3, width: int = 6) -> SlideIndex:
    vectors = RNG.normal(size=(slides, clusters, width))
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    weights = RNG.dirichlet(np.ones(clusters), size=slides)
    weights[:5, -1] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    return SlideIndex(
        tuple(f"s{i:02}" for i in range(slides)), Sets(vectors.astype(np.float32), weights.astype(np.float32))
    )


def test_with_all_candidates_it_is_brute_force() -> None:
    index = random_index()
    own = index.set_of("s07")
    scores = np.array(
        [
            exact(own.vectors[0] @ v.T, own.weights[0] / own.weights[0].sum(), w / w.sum())
            for v, w in zip(*index.sets, strict=True)
        ]
    )
    scores[7] = -np.inf
    found = index.search("s07", top=6, candidates=30)
    assert [match.row for match in found] == np.argsort(-scores)[:6].tolist()
    np.testing.assert_allclose([match.similarity for match in found], np.sort(scores)[::-1][:6], atol=1e-6)
    best = found[0]
    assert best.similarity == pytest.approx(sum(mass * cosine for _, _, mass, cosine in best.pairs))
    assert sum(pair[2] for pair in best.pairs) == pytest.approx(1)
    assert table_of(found)["slide_id"].tolist() == [match.slide_id for match in found]


def test_only_allowed_slides_are_found_and_few_candidates_are_those_of_the_nearest_means() -> None:
    index = random_index()
    allowed = np.zeros(30, bool)
    allowed[[3, 7, 9]] = True
    assert {match.row for match in index.search("s07", allowed=allowed)} == {3, 9}
    means = np.einsum("nkd,nk->nd", *index.sets)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    near = np.argsort(-(means @ means[7]))[1:5]
    assert {match.row for match in index.search("s07", top=4, candidates=4)} == set(near.tolist())


def test_the_coarse_index_is_exact_and_selects() -> None:
    vectors = RNG.normal(size=(20, 4))
    index = CosineIndex(vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    allowed = RNG.random(20) < 0.5
    found, cosines = index.nearest(vectors[3], 50, allowed)
    expected = [row for row in np.argsort(-(unit @ unit[3])) if allowed[row]]
    assert found.tolist() == expected
    np.testing.assert_allclose(cosines, (unit @ unit[3])[expected], atol=1e-6)
    assert len(index) == 20


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    index = random_index()
    with pytest.raises(UsageError, match="s99 is not in the index, which has 30 slides such as s00"):
        index.search("s99")
    with pytest.raises(UsageError, match="vectors of 2 features, the index of 6"):
        index.search(Sets(np.ones((1, 1, 2), np.float32), np.ones((1, 1), np.float32)))
    with pytest.raises(UsageError, match="does not exist"):
        SlideIndex.open(tmp_path / "absent")
