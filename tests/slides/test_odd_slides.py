"""Odd files: each gives the right pixels, or a sentence that says what to do."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from PIL import Image

from slpd_toolkit.commands import embed
from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.slides.label_pictures import read_labels
from slpd_toolkit.slides.slide import Slide, Thumbnail
from slpd_toolkit.store.token_file import TokenStore
from tests.cohorts import mean_colour_encoder, read_csv, small_config, write_manifest
from tests.slide_factory import tissue, write_slide

if TYPE_CHECKING:
    from pathlib import Path

    from slpd_toolkit.demo.tiff import RGB

NO_MPP = r"plausible values are 0\.1 to 5"

READ = {
    "hd-dicom/sm_image.dcm": ("dicom", (50, 50), 0.499, 243.895),
    "li-grey10kx5k.tif": ("picture", (10_000, 5_000), None, 64.0),
    "li-yb10kx5k.zstd.tiff": ("generic-tiff", (10_000, 5_000), None, 85.0),
    "os-boxes-dicom/boxes_0.dcm": ("dicom", (16, 16), 0.499, 236.305),
    "os-boxes-dicom/boxes_1.dcm": ("dicom", (16, 16), 0.499, 236.305),
    "os-boxes.tiff": ("generic-tiff", (300, 250), None, 162.479),
    "os-small.svs": ("aperio", (16, 16), 0.499, 236.305),
    "pathml-small_HE_levels.tiff": ("generic-tiff", (300, 250), None, 162.479),
    "pathml-smalltif.tif": ("picture", (640, 480), None, 63.165),
}
"""Format, size, resolution in the file or None if it states that of a screen, and mean of its top-left square of at
most 400 px, which tifffile gives as well."""

REFUSED = {
    "ezwsi-dicom/multiframe_camelyon.dcm": (r"28\.969 x 28\.968 um/px; plausible values", "overview of a slide"),
    "li-test_orient6.tif": ("has the orientation 6 in its tags", "vips autorot"),
    "luna-Tumor.png": ("has 67,727 x 16,588 px; an image without tiles", "vips tiffsave"),
    "os-unopenable.tiff": ("Unsupported TIFF compression: 52479", "vips tiffsave"),
    "os-unreadable.svs": (r"pixels at level-0 \(0, 0\) cannot be decoded", "truncated or damaged"),
    "pathml-dicom/small_dicom.dcm": ("cannot be opened", "DICOM files of whole-slide images"),
}


@pytest.fixture
def odd(data: Path) -> Path:
    if not (data / "odd_slides").is_dir():
        pytest.skip("needs the folder odd_slides")
    return data / "odd_slides"


def test_every_odd_file_is_expected(odd: Path) -> None:
    found = {path.relative_to(odd).as_posix() for path in odd.rglob("*") if path.is_file()}
    assert found == set(READ) | set(REFUSED)


@pytest.mark.parametrize("name", READ)
def test_odd_files_that_can_be_read(odd: Path, name: str) -> None:
    vendor, size, mpp, mean = READ[name]
    if mpp is None:
        with pytest.raises(SlideError, match=NO_MPP):
            Slide(odd / name)
    with Slide(odd / name, None if mpp else 0.5) as slide:
        slide.check()
        assert (slide.header.vendor, (slide.header.width_l0, slide.header.height_l0)) == (vendor, size)
        assert slide.header.mpp_l0 == pytest.approx(mpp or 0.5, abs=1e-6)
        side = min(*size, 400)
        assert slide.read(0, 0, side, side).mean() == pytest.approx(mean, abs=0.01)


@pytest.mark.parametrize("name", REFUSED)
def test_odd_files_that_are_refused(odd: Path, name: str) -> None:
    said, hint = REFUSED[name]

    def open_and_look() -> None:
        with Slide(odd / name) as slide:
            slide.check()
            slide.thumbnail(8.0)

    with pytest.raises(SlideError, match=said) as caught:
        open_and_look()
    assert hint in caught.value.hint


@pytest.mark.slow
def test_every_odd_file_through_embed(odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolution is entered where the format has none, and every region is kept."""
    monkeypatch.setattr(embed, "make_encoder", mean_colour_encoder)
    rows: list[dict[str, object]] = []
    for name in sorted(READ | REFUSED):
        given = 0.1 if "10kx5k" in name else 1.0  # so that the two large files have few regions
        has_mpp = name.endswith((".dcm", ".svs"))
        rows.append({"slide_id": name.replace("/", "-"), "slide_path": odd / name, "mpp": "" if has_mpp else given})
    cache = tmp_path / "cache"
    assert embed.run(small_config(write_manifest(tmp_path / "m.csv", rows), cache, min_tissue=0.0)) == 1
    failed = {row["slide_id"] for row in read_csv(cache / "failures.csv")}
    assert failed == {name.replace("/", "-") for name in REFUSED}
    files = {file.meta.slide_id: file for file in TokenStore.open(cache).files}
    assert set(files) == {name.replace("/", "-") for name in READ}
    same = [files[f"os-boxes-dicom-boxes_{number}.dcm"].tokens.tobytes() for number in range(2)]
    assert {*same, files["os-small.svs"].tokens.tobytes()} == {same[0]}  # one picture as DICOM and as SVS
    assert np.ptp(files["li-yb10kx5k.zstd.tiff"].tokens[..., 2].astype(np.float32)) > 200  # a yellow stripe on blue


@pytest.fixture(scope="module")
def shown() -> RGB:
    return tissue(128, 192, mpp=1.0)


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("kind", ["tiles", "jpeg tiles", "strips", "48 bit", "jpg", "png", "url"])
def test_only_upright_images_are_read(tmp_path: Path, shown: RGB, kind: str, orientation: int) -> None:
    """OpenSlide mirrors the tiles of such files in their places unless they are JPEG, and Pillow turns TIFF files."""
    path = tmp_path / ("p." + (kind if kind in {"jpg", "png"} else "tif"))
    tags = [(274, "H", 1, orientation, True)]
    if kind in {"jpg", "png"}:
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(shown).save(path, exif=exif)
    elif kind == "48 bit":
        tifffile.imwrite(path, shown.astype(np.uint16) << 8, photometric="rgb", extratags=tags)
    else:
        tile = None if kind == "strips" else (64, 64)
        compression = {"strips": None, "jpeg tiles": "jpeg"}.get(kind, "zlib")
        tifffile.imwrite(path, shown, photometric="rgb", tile=tile, extratags=tags, compression=compression)
    if kind == "url" and find_spec("tiffslide") is None:
        pytest.skip("the extra `remote` is not installed")
    location = path.as_uri() if kind == "url" else path
    if orientation == 1:
        with Slide(location, 1.0) as slide:
            seen = slide.read(0, 0, 192, 192)[:128].astype(int)
        assert np.abs(seen - shown).mean() <= (12 if kind.startswith("jp") else 0)
        return
    with pytest.raises(SlideError, match=f"has the orientation {orientation} in its tags") as caught:
        Slide(location, 1.0)
    assert "vips autorot" in caught.value.hint


def test_a_label_picture_is_upright_too(tmp_path: Path) -> None:
    labels = np.zeros((128, 128), np.uint8)
    thumbnail = Thumbnail(np.zeros((16, 16, 3), np.uint8), 8, 8.0)
    for tile in (None, (64, 64)):
        tifffile.imwrite(tmp_path / "m.tif", labels, tile=tile, extratags=[(274, "H", 1, 6, True)])
        with pytest.raises(SlideError, match="orientation 6"):
            read_labels(tmp_path / "m.tif", (), (128, 128), thumbnail)


def test_tiles_in_zstd(tmp_path: Path, shown: RGB) -> None:
    tifffile.imwrite(tmp_path / "z.tif", shown, photometric="rgb", tile=(64, 64), compression="zstd")
    with Slide(tmp_path / "z.tif", 1.0) as slide:
        assert np.array_equal(slide.read(0, 0, 192, 192)[:128], shown)


def test_a_compression_that_nobody_knows(tmp_path: Path, shown: RGB) -> None:
    path = write_slide(tmp_path / "u.tif", shown, mpp=1.0, downsamples=())
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["Compression"].overwrite(52479)
    with pytest.raises(SlideError, match="Unsupported TIFF compression: 52479") as caught:
        Slide(path)
    assert "vips tiffsave" in caught.value.hint
