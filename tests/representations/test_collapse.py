from __future__ import annotations

import numpy as np

from slpd_toolkit.mil.set_similarity import Sets
from slpd_toolkit.representations.collapse import collapse_warning
from slpd_toolkit.representations.slide_index import SlideIndex

RNG = np.random.default_rng(0)
IDS = [f"s{number}" for number in range(40)]
VECTORS = RNG.normal(size=(40, 16)).astype(np.float32)


def test_vectors_that_tell_slides_apart_are_silent() -> None:
    assert collapse_warning("x", IDS, VECTORS) == ""
    assert collapse_warning("x", IDS, VECTORS + 2) == ""
    assert collapse_warning("x", IDS[:2], np.ones((2, 16), np.float32)) == ""


def test_vectors_within_a_few_hundredths_are_told() -> None:
    close = VECTORS * 0.1 + 5
    unit = close / np.linalg.norm(close, axis=1, keepdims=True)
    said = collapse_warning("giga", IDS, close)
    assert said.startswith("giga: all 40 vectors are within a cosine distance of 0.00")
    assert f"smallest cosine similarity {(unit @ unit.T).min():.4f}" in said


def test_a_slide_without_a_vector_hides_nothing() -> None:
    close = VECTORS * 0.1 + 5
    close[4] = 0
    assert "all 40 vectors are within" in collapse_warning("giga", IDS, close)


def test_a_few_other_slides_hide_nothing() -> None:
    close = VECTORS * 0.1 + 5
    close[[4, 9]] = VECTORS[[4, 9]]
    rest = np.delete(close, [4, 9], axis=0)
    unit = rest / np.linalg.norm(rest, axis=1, keepdims=True)
    said = collapse_warning("giga", IDS, close)
    assert "38 of 40 vectors are within a cosine distance of 0.00" in said
    assert f"(all but s4, s9; smallest cosine similarity {(unit @ unit.T).min():.4f})" in said
    assert "4 of 5 vectors are within" in collapse_warning("giga", IDS[:5], close[:5])
    assert collapse_warning("giga", IDS[1:5], close[1:5]) == ""  # one of four is a quarter
    close[:5] = VECTORS[:5]
    assert collapse_warning("giga", IDS, close) == ""  # more than a tenth


def test_equal_vectors_do_not_hide_that_the_others_are_close() -> None:
    close = VECTORS * 0.1 + 5
    close[7] = close[3]
    said = collapse_warning("giga", IDS, close)
    assert "2 of 40 vectors are equal to another one: s3, s7" in said
    assert "all 40 vectors are within" in said


def test_equal_vectors_are_named() -> None:
    same = VECTORS.copy()
    same[[3, 7, 9]] = same[3]
    assert "3 of 40 vectors are equal to another one: s3, s7, s9." in collapse_warning("x", IDS, same)


def test_an_index_for_searches_is_checked_as_well() -> None:
    rng = np.random.default_rng(0)
    vectors = (10 + rng.normal(size=(5000, 2, 8))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    weights = np.full((5000, 2), 0.5, np.float32)
    ids = tuple(map(str, range(5000)))
    assert (
        "collapse: all 2048 vectors are within a cosine distance of"
        in SlideIndex(ids, Sets(vectors, weights), origin="collapse").warning()
    )
    vectors[::2] *= -1
    assert SlideIndex(ids, Sets(vectors, weights)).warning() == ""
