"""Slides with damaged tables of tiles: refused, or the pixels are those of the sound slide."""

from __future__ import annotations

import time
from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import pytest

from slpd_toolkit.config.region_selection import RegionSelectionConfig
from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.slides.guarded_slide import GuardedSlide, SlideReaders
from slpd_toolkit.slides.regions import lay_lattice
from tests.slide_factory import tissue_on_glass, write_slide
from tests.slides.mutants import MUTATIONS, Tiff

if TYPE_CHECKING:
    from pathlib import Path

LONGEST_S = 60.0


def pixels_of(readers: SlideReaders, path: Path) -> dict[tuple[object, ...], bytes]:
    """All patches of the kept regions.

    Raises:
        SlideError: As `slpd embed` would.
    """
    slide = GuardedSlide(readers, path)
    lattice = lay_lattice(slide.header, target_mpp=1.0, patch_px=64, region_px=512, max_upsample=1.6)
    plan = slide.plan(lattice, RegionSelectionConfig(min_tissue=0.1))
    found: dict[tuple[object, ...], bytes] = {}
    for block in plan.blocks():
        pixels = slide.read_block(plan, block)
        if pixels.faulty.any():
            raise SlideError("faulty")
        found[plan.corner_l0(block), block.rows_rc.start, block.columns_rc.start] = pixels.patches.tobytes()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_no_mutant_passes_silently(tmp_path: Path, compression: str) -> None:
    picture = tissue_on_glass(1800, 2300, [(200, 150, 2100, 1500)], mpp=1.0)
    whole = write_slide(
        tmp_path / "s.tif",
        picture,
        mpp=1.0,
        downsamples=(2, 8),
        compression="jpeg" if compression == "jpeg" else "deflate",
    )
    ends, started = Counter[str](), time.monotonic()
    with SlideReaders() as readers:
        wanted = pixels_of(readers, whole)
        for seed in range(160):
            if time.monotonic() > started + LONGEST_S:
                break
            random, file = Random(seed), Tiff(whole.read_bytes())
            level = random.choice((0, 0, *range(len(file.levels))))
            mutate = MUTATIONS[seed % len(MUTATIONS)]
            mutate(file, level, random)
            (tmp_path / "mutant.tif").write_bytes(file.data)
            try:
                assert pixels_of(readers, tmp_path / "mutant.tif") == wanted, (seed, mutate.__name__, level)
                ends["same"] += 1
            except SlideError:
                ends["refused"] += 1
    assert ends["refused"] > ends["same"]
