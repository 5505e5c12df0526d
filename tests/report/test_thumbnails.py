from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from slpd_toolkit.core.manifest import SlideEntry
from slpd_toolkit.report.thumbnails import Thumbnails
from slpd_toolkit.slides import reading
from tests.guarded_work import abort_always

if TYPE_CHECKING:
    from pathlib import Path


def entries(folder: Path) -> dict[str, SlideEntry]:
    rgb = np.full((512, 1024, 3), 240, np.uint8)
    rgb[:, 512:] = (200, 30, 90)
    tifffile.imwrite(folder / "a.tiff", rgb, tile=(256, 256), photometric="rgb", compression="deflate")  # no mpp
    (folder / "b.tiff").write_bytes(b"no slide")
    return {name: SlideEntry(2, name, folder / f"{name}.tiff", name, None) for name in ("a", "b")}


def test_a_thumbnail_has_the_longest_side_asked_for_and_needs_no_resolution(tmp_path: Path) -> None:
    thumbnails = Thumbnails(entries(tmp_path), 150)
    whole = thumbnails.read("a")
    assert whole is not None
    assert (whole.rgb.shape, whole.size_l0) == ((75, 150, 3), (1024, 512))
    np.testing.assert_array_equal(whole.rgb[40, 10], [240, 240, 240])
    np.testing.assert_array_equal(whole.rgb[40, 140], [200, 30, 90])
    assert thumbnails.failures == {}


def test_a_slide_is_never_enlarged(tmp_path: Path) -> None:
    whole = Thumbnails(entries(tmp_path), 5000).read("a")
    assert whole is not None
    assert whole.rgb.shape == (512, 1024, 3)


def test_what_cannot_be_read_is_remembered_and_what_is_not_listed_is_not(tmp_path: Path) -> None:
    thumbnails = Thumbnails(entries(tmp_path), 100)
    assert thumbnails.read("b") is None
    assert thumbnails.read("absent") is None
    assert list(thumbnails.failures) == ["b"]
    assert "is not a slide" in str(thumbnails.failures["b"])


@pytest.mark.slow
def test_a_slide_that_ends_the_process_that_reads_it_costs_its_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "thumbnail", abort_always)
    thumbnails = Thumbnails(entries(tmp_path), 150)
    assert thumbnails.read("a") is None
    assert "ended by signal SIGABRT" in thumbnails.failures["a"].message
