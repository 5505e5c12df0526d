"""The driver of robust recipes: names of rows, normalization of tokens, and a file that may be cut off."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.planted import robust
from benchmarks.planted.cohorts import Planted, TokenModel, plan

if TYPE_CHECKING:
    from pathlib import Path

SMALL = Planted(
    slides=6, regions=3, grid=4, dim=12, kinds=4, shift_rank=2, slide_shift=5.0, region_shift=0.0, drift=0.0
)


def test_rows_are_parsed_and_typing_errors_refused() -> None:
    row = robust.Row.parse("SLPD, center, NAP 8, offset, fan-in")
    assert row == robust.Row("SLPD", "center, NAP 8", ("offset", "fan-in"))
    assert robust.settings_of("slide shift", row, 3)["region_offset"] == 0.7
    shipped = robust.settings_of("slide shift", robust.Row.parse("recipe robust, fan-in"), 3)
    assert shipped["whitening"] == "wiener"
    assert shipped["weight_init"] == "fan-in"
    assert "epochs" in shipped["auto"]
    assert "embed_dim" not in shipped
    for name in ("SLDP, center", "SLPD, centre"):
        with pytest.raises(ValueError, match="known are"):
            robust.Row.parse(name)
    for name in robust.DEFAULT_ROWS:
        robust.Row.parse(name)


def test_normalisations_remove_what_slides_differ_in() -> None:
    slides = robust.draw(SMALL, plan(SMALL))
    shifts = robust.between(slides)
    for name in ("center", "standardize", "whiten", "NAP 4"):
        assert np.trace(robust.between(robust.NORMALISATIONS[name](slides))) < 0.1 * np.trace(shifts)
    np.testing.assert_allclose(robust.within(robust.whitened(slides)), np.eye(12), atol=1e-3)
    # two of twelve directions hold nearly all of the differences between slides
    within = np.trace(robust.within(slides))
    assert np.trace(robust.within(robust.without_directions(slides, 2))) > 0.7 * within


def test_waves_lie_in_the_directions_of_shifts_and_gains_scale_features() -> None:
    quiet = replace(SMALL, noise=0.0)
    plain, waved = (robust.draw(each, plan(each)) for each in (quiet, replace(quiet, wave=2.0)))
    added = (waved[0] - plain[0]).reshape(-1, 12)
    assert 0.5 < added.std() < 8
    assert np.linalg.lstsq(TokenModel(quiet).directions.T, added.T, rcond=None)[1].max() < 1e-6
    scaled = robust.draw(replace(quiet, gain=1.0), plan(quiet))[0].reshape(-1, 12) / plain[0].reshape(-1, 12)
    np.testing.assert_allclose(scaled, scaled[:1].repeat(len(scaled), axis=0), rtol=1e-4)


def test_a_line_that_was_cut_off_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "robust.csv"
    assert robust.read(path) == []
    for seed in (0, 1):
        robust.append(path, robust.line_of(robust.Unit("drift", "DINO", seed), 1.0, {"regions knn": 0.5}))
    path.write_bytes(path.read_bytes()[:-4])
    assert [line["seed"] for line in robust.read(path)] == [0]
    robust.append(path, robust.line_of(robust.Unit("drift", "DINO", 1), 1.0, {"regions knn": 0.7}))
    assert [line["metrics"] for line in robust.read(path)] == [{"regions knn": 0.5}, {"regions knn": 0.7}]
    assert "| drift | DINO | 2 | 0.60 |" in robust.table(path)
