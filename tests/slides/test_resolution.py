"""Statements about the resolution that contradict each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.slides.resolution import choose_mpp, doubt_of_resolution
from slpd_toolkit.slides.slide import Slide
from slpd_toolkit.slides.source import SourceInfo

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("said", "tags", "power", "given", "doubt"),
    [
        ("0.499", None, "20", None, ""),
        ("0.35", None, "20", None, ""),
        ("0.35", None, "40", None, ""),
        ("0.499", 0.4993, None, None, ""),
        ("0.499", 264.6, None, None, ""),  # 96 dpi, a default
        ("0.499", 0.2493, "20", None, "0.499 um/px in the description, 0.2493 in the TIFF tags"),
        ("0.999", None, "40", None, "0.999 um/px with an objective of 40x"),
        ("0.499", None, "20", 0.499, ""),
        ("0.499", 0.25, "80", 0.25, "0.25 um/px in the manifest, 0.499 in the file"),
        (None, None, None, 0.25, ""),
        ("x", None, "nan", None, ""),
    ],
)
def test_what_contradicts_the_resolution_is_stated(
    said: str | None, tags: float | None, power: str | None, given: float | None, doubt: str
) -> None:
    info = SourceInfo("aperio", ((9, 9),), (1.0,), (said, said), tags, power)
    assert doubt_of_resolution(info, given) == doubt


@pytest.mark.parametrize(
    ("vendor", "doubt"),
    [("dicom", "0.5 um/px in the manifest, 28.97 in the file"), ("generic-tiff", ""), ("picture", "")],
)
def test_an_overview_that_the_manifest_calls_a_slide(vendor: str, doubt: str) -> None:
    info = SourceInfo(vendor, ((9, 9),), (1.0,), ("28.97", "28.97"))
    assert doubt_of_resolution(info, 0.5) == doubt
    with pytest.raises(SlideError, match="plausible values") as caught:
        choose_mpp("s", info, None)
    assert ("overview" in caught.value.hint) == (vendor == "dicom")


def write(path: Path, units: tuple[str, str], per_cm: tuple[float, float]) -> Path:
    with tifffile.TiffWriter(path) as file:
        for level in (0, 1):
            file.write(
                np.full((512 >> level, 512 >> level, 3), 200, np.uint8),
                tile=(256, 256),
                photometric="rgb",
                resolution=(per_cm[level], per_cm[level]),
                resolutionunit=units[level],
                metadata=None,
                subfiletype=level,
            )
    return path


@pytest.mark.parametrize(
    ("units", "per_cm", "fine"),
    [
        (("CENTIMETER", "CENTIMETER"), (20_000, 20_000), True),
        (("CENTIMETER", "CENTIMETER"), (20_000, 10_000), True),
        (("CENTIMETER", "INCH"), (20_000, 50_800), True),
        (("CENTIMETER", "NONE"), (20_000, 1), True),
        (("INCH", "CENTIMETER"), (20_000, 20_000), False),
        (("CENTIMETER", "CENTIMETER"), (20_000, 16_384 ^ 20_000), False),
    ],
)
def test_levels_that_contradict_each_other_are_refused(
    tmp_path: Path, units: tuple[str, str], per_cm: tuple[float, float], fine: bool
) -> None:
    with Slide(write(tmp_path / "s.tif", units, per_cm)) as slide:
        if fine:
            slide.check()
            assert slide.header.doubt == ""
            return
        with pytest.raises(SlideError, match="levels have contradictory resolutions"):
            slide.check()
