"""Slides read in other processes: the same pixels, and faults that end the process are the slide's alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from slpd_toolkit.config.region_selection import RegionSelectionConfig
from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.slides.guarded_slide import GuardedSlide, SlideReaders
from slpd_toolkit.slides.plan import plan_slide, read_block
from slpd_toolkit.slides.reading import SlideHandle
from slpd_toolkit.slides.regions import lay_lattice
from slpd_toolkit.slides.slide import Slide
from tests.guarded_work import abort_always, abort_once, ask_for
from tests.slide_factory import tissue_on_glass, write_slide

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def readers() -> Iterator[SlideReaders]:
    with SlideReaders() as made:
        yield made


def test_the_same_as_the_slide_itself(tmp_path: Path, readers: SlideReaders) -> None:
    path = write_slide(tmp_path / "s.tif", tissue_on_glass(700, 900, [(100, 80, 640, 600)], mpp=1.0), mpp=1.0)
    there = GuardedSlide(readers, path)
    with Slide(path) as here:
        assert there.header == here.header
        assert (there.read(10, 20, 300, 100) == here.read(10, 20, 300, 100)).all()
        assert (there.thumbnail(8.0).rgb == here.thumbnail(8.0).rgb).all()
        lattice = lay_lattice(here.header, target_mpp=1.0, patch_px=64, region_px=256, max_upsample=1.6)
        found, wanted = (
            there.plan(lattice, RegionSelectionConfig(min_tissue=0.1)),
            plan_slide(here, lattice, RegionSelectionConfig(min_tissue=0.1)),
        )
        assert (found.mask == wanted.mask).all()
        assert (found.coords_l0 == wanted.coords_l0).all()
        for block in wanted.blocks():
            pixels = read_block(here, lattice, wanted.corner_l0(block), block, wanted.overview(block))
            others = there.read_block(found, block)
            assert (pixels.patches == others.patches).all()
            assert (pixels.inside == others.inside).all()


def test_a_file_that_was_replaced_is_opened_again(tmp_path: Path, readers: SlideReaders) -> None:
    path = write_slide(tmp_path / "s.tif", tissue_on_glass(300, 300, [], mpp=1.0), mpp=1.0)
    assert GuardedSlide(readers, path).header.width_l0 == 300
    write_slide(path, tissue_on_glass(300, 500, [], mpp=1.0), mpp=1.0)
    assert GuardedSlide(readers, path).header.width_l0 == 500


@pytest.mark.slow
def test_an_abort_is_tried_once_more_in_a_new_process(tmp_path: Path, readers: SlideReaders) -> None:
    assert readers.read(abort_once, SlideHandle(tmp_path / "marker")) == "done"
    with pytest.raises(SlideError, match=r"s\.svs crashed the process that read it: ended by signal SIGABRT") as caught:
        readers.read(abort_always, SlideHandle(tmp_path / "s.svs"))
    assert "damaged" in caught.value.hint


def test_too_much_memory_is_the_slide_s_fault(tmp_path: Path, readers: SlideReaders) -> None:
    with pytest.raises(SlideError, match=r"s\.svs cannot be read: it requires more than 8 GiB of memory"):
        readers.read(ask_for, SlideHandle(tmp_path / "s.svs"), 1 << 40)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_special_files_are_refused_at_once(tmp_path: Path, readers: SlideReaders) -> None:
    os.mkfifo(tmp_path / "fifo.svs")
    (tmp_path / "link.svs").symlink_to(tmp_path / "fifo.svs")
    for name, kind in (("fifo.svs", "a FIFO"), ("link.svs", "a FIFO"), ("/dev/zero", "a device"), (".", "a folder")):
        with pytest.raises(SlideError, match=f"is {kind}, not a slide file"):
            GuardedSlide(readers, tmp_path / name)
