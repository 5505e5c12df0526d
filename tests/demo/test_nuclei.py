"""Drawing of nuclei compared with a loop over them, and properties of their images."""

from __future__ import annotations

import numpy as np
import pytest

from slpd_toolkit.demo.nuclei import LOOKS, TURNS, Cell, Nuclei, draw_bank, make_nuclei

MPP = 0.5


def printed_one_by_one(
    bank_stamps: np.ndarray, nuclei: Nuclei, shape: tuple[int, int], left: float, top: float
) -> np.ndarray:
    side = bank_stamps.shape[-1]
    far = 200
    canvas = np.zeros((shape[0] + 2 * far, shape[1] + 2 * far), np.uint8)
    for x_um, y_um, angle, form in zip(*nuclei, strict=True):
        x, y = round((x_um - left) / MPP) - side // 2 + far, round((y_um - top) / MPP) - side // 2 + far
        if x < 0 or y < 0 or x + side > canvas.shape[1] or y + side > canvas.shape[0]:
            continue
        place = canvas[y : y + side, x : x + side]
        np.maximum(place, bank_stamps[form, round(float(angle) / np.pi * TURNS) % TURNS], out=place)
    return canvas[far : far + shape[0], far : far + shape[1]]


def test_printing_is_what_a_loop_prints_also_over_the_edges() -> None:
    rng = np.random.default_rng(0)
    bank = draw_bank(rng, LOOKS[Cell.TUMOUR], MPP)
    x, y = rng.uniform(-40, 120, (2, 900)).astype(np.float32)
    # On whole pixels, where no rounding is in doubt.
    nuclei = make_nuclei(rng, np.round(x / MPP) * MPP, np.round(y / MPP) * MPP)
    canvas = np.zeros((90, 130), np.uint8)
    bank.print_on(canvas, nuclei, 10.0, 5.0)
    np.testing.assert_array_equal(canvas, printed_one_by_one(bank.stamps, nuclei, canvas.shape, 10.0, 5.0))
    assert canvas.max() > 100


def test_what_is_darker_stays() -> None:
    rng = np.random.default_rng(1)
    bank = draw_bank(rng, LOOKS[Cell.LYMPHOCYTE], MPP)
    canvas = np.full((40, 40), 255, np.uint8)
    bank.print_on(canvas, make_nuclei(rng, np.array([10.0]), np.array([10.0])), 0.0, 0.0)
    assert (canvas == 255).all()


@pytest.mark.slow
@pytest.mark.parametrize("cell", Cell)
@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_nuclei_have_the_size_of_their_type_whatever_the_resolution(cell: Cell, mpp: float) -> None:
    look = LOOKS[cell]
    stamps = draw_bank(np.random.default_rng(2), look, mpp).stamps
    area_um2 = (stamps > 60).sum(axis=(-2, -1)) * mpp**2  # without the pixels that an edge only touches
    assert area_um2.mean() == pytest.approx(np.pi / 4 * look.length * look.width, rel=0.25)
    assert not stamps[..., 0, :].any(), "cut at its picture's edge"
    assert not stamps[..., :, -1].any()


def test_lymphocytes_are_small_round_and_dark_and_fibroblasts_long() -> None:
    stamps = {cell: draw_bank(np.random.default_rng(3), LOOKS[cell], MPP).stamps for cell in Cell}

    def elongation(cell: Cell) -> float:
        there = stamps[cell][:, 0] > 0  # not turned: long along x
        return float(np.mean(there.any(axis=1).sum(axis=-1) / there.any(axis=2).sum(axis=-1)))

    assert elongation(Cell.LYMPHOCYTE) < 1.25
    assert elongation(Cell.FIBROBLAST) > 2.5
    inside = {cell: float(values[values > 0].mean()) for cell, values in stamps.items()}
    assert inside[Cell.LYMPHOCYTE] > inside[Cell.TUMOUR] + 25
