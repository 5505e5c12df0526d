from __future__ import annotations

import numpy as np
import pytest

from slpd_toolkit.report.overlays import colour_values, colours, draw_overlay
from slpd_toolkit.report.scores import SlideScores


def slide(coords: list[list[int]], sizes: list[int], size_l0: tuple[int, int] = (0, 0)) -> SlideScores:
    return SlideScores("s", np.array(coords), np.array(sizes), np.zeros(len(sizes)), size_l0)


def test_scales() -> None:
    scores = np.array([1.0, 100.0, 2.0, 2.0])
    np.testing.assert_allclose(colour_values(scores, "rank"), [0, 1, 0.5, 0.5])
    np.testing.assert_allclose(colour_values(scores, "linear"), [0, 1, 1 / 99, 1 / 99])
    for equal in (np.full(3, 7.0), np.array([7.0])):
        assert set(colour_values(equal, "linear").tolist()) == set(colour_values(equal, "rank").tolist()) == {0.5}


def test_without_a_slide_squares_are_opaque_on_white() -> None:
    overlay = draw_overlay(slide([[1000, 1000], [1100, 1000]], [100, 100]), np.array([0.0, 1.0]), None, 300)
    assert overlay.box_l0 == (950, 950, 1250, 1150)
    assert overlay.rgb.shape == (200, 300, 3)
    low, high = colours(np.array([0.0, 1.0]))
    np.testing.assert_array_equal(overlay.rgb[100, 100], low)
    np.testing.assert_array_equal(overlay.rgb[100, 200], high)
    np.testing.assert_array_equal(overlay.rgb[10, 10], [255, 255, 255])


def test_on_pixels_squares_lie_where_they_lie_on_the_slide_and_let_it_through() -> None:
    thumbnail = np.full((50, 100, 3), 200, np.uint8)
    thumbnail[:, 50:] = 100
    overlay = draw_overlay(slide([[500, 0]], [500], (1000, 500)), np.array([1.0]), thumbnail, 100)
    assert overlay.box_l0 == (0, 0, 1000, 500)
    assert overlay.rgb.shape == (50, 100, 3)
    np.testing.assert_array_equal(overlay.rgb[25, 25], [200, 200, 200])
    mixed = overlay.rgb[25, 75].astype(float)
    opacity = (mixed - 100) / (colours(np.array([1.0]))[0].astype(float) - 100)
    assert opacity == pytest.approx(np.full(3, opacity[0]), abs=0.02)
    assert 0.2 < opacity[0] < 0.6


def test_regions_padded_beyond_the_slide_widen_the_picture() -> None:
    thumbnail = np.full((50, 100, 3), 200, np.uint8)
    overlay = draw_overlay(slide([[-100, 0], [900, 400]], [200, 200], (1000, 500)), np.zeros(2), thumbnail, 120)
    assert overlay.box_l0 == (-100, 0, 1100, 600)
    assert overlay.rgb.shape == (60, 120, 3)
    row = overlay.rgb[30, :, 0]
    np.testing.assert_array_equal(row, np.where((np.arange(120) >= 10) & (np.arange(120) < 110), 200, 235))
    np.testing.assert_array_equal(overlay.rgb[55, 50], [235, 235, 235])


def test_where_squares_overlap_their_mean_is_shown_and_tiny_ones_are_seen() -> None:
    overlay = draw_overlay(slide([[0, 0], [50, 0], [4000, 4000]], [100, 100, 1]), np.array([0.0, 1.0, 1.0]), None, 410)
    scale = 410 / 4101
    middle = overlay.rgb[round(100 * scale), round(125 * scale)]
    np.testing.assert_array_equal(middle, colours(np.array([0.5]))[0])
    assert (overlay.rgb == colours(np.array([1.0]))[0]).all(axis=-1)[300:, 300:].sum() == 1
