"""Colors follow the Beer-Lambert law, and stains are in the expected range."""

from __future__ import annotations

import numpy as np

from slpd_toolkit.demo.stain import LEVELS, OD_STEP, Stain, draw_stain

PLAIN = Stain(
    haematoxylin=(0.6, 0.7, 0.387), eosin=(0.1, 0.9, 0.424), haematoxylin_gain=1.2, eosin_gain=0.8,
    glass=(240.0, 241.0, 239.0), focus_px=0.7,
)  # fmt: skip


def test_no_stain_is_glass() -> None:
    assert PLAIN.palette()[0, 0].tolist() == [240, 241, 239]


def test_light_is_absorbed_by_both_stains_in_turn() -> None:
    palette = PLAIN.palette()
    assert palette.shape == (LEVELS, LEVELS, 3)
    for haematoxylin, eosin in ((40, 0), (0, 90), (55, 33)):
        density = -np.log(palette[haematoxylin, eosin] / np.array(PLAIN.glass))
        wanted = OD_STEP * (haematoxylin * 1.2 * np.array(PLAIN.haematoxylin) + eosin * 0.8 * np.array(PLAIN.eosin))
        np.testing.assert_allclose(density, wanted, atol=0.012)  # a byte's rounding


def test_more_stain_is_never_brighter() -> None:
    palette = PLAIN.palette().astype(int)
    assert (np.diff(palette, axis=0) <= 0).all()
    assert (np.diff(palette, axis=1) <= 0).all()


def test_drawn_stains_vary_and_stay_haematoxylin_and_eosin() -> None:
    stains = [draw_stain(np.random.default_rng(seed)) for seed in range(40)]
    for stain in stains:
        assert np.isclose(np.linalg.norm(stain.haematoxylin), 1)
        assert np.isclose(np.linalg.norm(stain.eosin), 1)
        red, green, blue = stain.palette()[0, 60]  # eosin: pink, green is what it takes most of
        assert red > blue > green
        red, green, blue = stain.palette()[120, 0]  # haematoxylin: violet to blue
        assert blue > red > green
    assert len({stain.glass for stain in stains}) == 40
    assert np.ptp([stain.eosin[2] for stain in stains]) > 0.15
