"""Sources of pixels: the same picture gives the same pixels through each; what is refused says why."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from slpd_toolkit.commands import embed
from slpd_toolkit.config.region_selection import RegionSelectionConfig
from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.files import fingerprint
from slpd_toolkit.slides.plan import plan_slide, read_block
from slpd_toolkit.slides.regions import lay_lattice
from slpd_toolkit.slides.slide import Slide
from slpd_toolkit.slides.sources import picture
from slpd_toolkit.store.token_file import TokenStore
from tests.cohorts import mean_colour_encoder, read_csv, small_config, write_manifest
from tests.slide_factory import noise, tissue_on_glass, write_slide

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    from slpd_toolkit.demo.tiff import RGB

SIZE = 300, 420

needs_tiffslide = pytest.mark.skipif(find_spec("tiffslide") is None, reason="the extra `remote` is not installed")


@pytest.fixture(scope="module")
def shown() -> RGB:
    return tissue_on_glass(*SIZE, [(40, 30, 300, 260)], mpp=1.0)


def write_ome(path: Path, rgb: RGB, *, unit: str = "µm", mpp: float = 1.0, **options: Any) -> Path:
    about = {
        "axes": "YXS",
        "PhysicalSizeX": mpp,
        "PhysicalSizeXUnit": unit,
        "PhysicalSizeY": mpp,
        "PhysicalSizeYUnit": unit,
    }
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(rgb, photometric="rgb", tile=(256, 256), subifds=1, metadata=about, compression="zlib", **options)
        file.write(rgb[::4, ::4], photometric="rgb", tile=(256, 256), subfiletype=1, compression="zlib")
    return path


def everything(path: Path | str, mpp: float | None = 1.0) -> RGB:
    with Slide(path, mpp) as slide:
        return slide.read(0, 0, max(SIZE), max(SIZE))


@needs_tiffslide
def test_the_same_pixels_through_every_source(tmp_path: Path, shown: RGB) -> None:
    wide = np.full((max(SIZE), max(SIZE), 3), 255, np.uint8)
    wide[: SIZE[0], : SIZE[1]] = shown
    Image.fromarray(shown).save(tmp_path / "p.png")
    tifffile.imwrite(tmp_path / "p.tif", shown, photometric="rgb")
    tifffile.imwrite(tmp_path / "p16.tif", shown.astype(np.uint16) << 8, photometric="rgb")
    paths = [tmp_path / name for name in ("p.png", "p.tif", "p16.tif")]
    paths += [write_slide(tmp_path / "slide.tif", shown, mpp=1.0), write_ome(tmp_path / "o.ome.tif", shown)]
    for path in paths:
        assert np.array_equal(everything(path), wide), path
    assert np.array_equal(everything((tmp_path / "slide.tif").as_uri()), wide)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_pictures(tmp_path: Path, bits: int, suffix: str) -> None:
    grey = noise(*SIZE)[..., 0]
    stored = grey if bits == 8 else (grey.astype(np.uint16) << 8) + 77
    Image.fromarray(stored).save(tmp_path / f"g.{suffix}")
    assert np.array_equal(everything(tmp_path / f"g.{suffix}")[: SIZE[0], : SIZE[1]], np.dstack([grey] * 3))


def test_white_is_zero_in_some_grey_tiffs(tmp_path: Path) -> None:
    for dtype in (np.uint8, np.uint16):
        stored = np.zeros(SIZE, dtype)
        stored[100:, :] = np.iinfo(dtype).max
        tifffile.imwrite(tmp_path / "w.tif", stored, photometric="miniswhite")
        got = everything(tmp_path / "w.tif")
        assert (got[:100] == 255).all()
        assert (got[100 : SIZE[0], : SIZE[1]] == 0).all()


def test_transparent_pixels_are_white_and_missing(tmp_path: Path, shown: RGB) -> None:
    rgba = np.dstack([shown, np.full(SIZE, 255, np.uint8)])
    rgba[50:60, 70:90, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "t.png")
    with Slide(tmp_path / "t.png", 1.0) as slide:
        rgb, gaps = slide.read_with_gaps(0, 0, 200, 200)
    assert gaps is not None
    assert np.argwhere(gaps).min(axis=0).tolist() == [50, 70]
    assert gaps.sum() == 200
    assert (rgb[gaps] == 255).all()


def test_a_decompression_bomb_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: RGB
) -> None:
    Image.fromarray(shown).save(tmp_path / "p.png")
    monkeypatch.setattr(picture, "MOST_PX", SIZE[0] * SIZE[1])
    assert everything(tmp_path / "p.png").shape
    monkeypatch.setattr(picture, "MOST_PX", SIZE[0] * SIZE[1] - 1)
    monkeypatch.setattr(picture, "decode_picture", lambda *_: pytest.fail("decoded"))
    with pytest.raises(SlideError, match=r"p\.png has 420 x 300 px; .* allowed: 125,999 px") as caught:
        everything(tmp_path / "p.png")
    assert "vips tiffsave" in caught.value.hint


@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "CMYK"), ("F", "F")])
def test_other_kinds_of_pixels_are_refused(tmp_path: Path, mode: str, kind: str) -> None:
    Image.new(mode, (32, 32)).save(tmp_path / "k.tif")
    with pytest.raises(SlideError, match=f"pixels of type {kind}; allowed: grayscale or RGB"):
        everything(tmp_path / "k.tif")


def test_a_picture_that_was_cut_short(tmp_path: Path) -> None:
    for name in ("p.png", "p.jpg", "p.tif"):
        Image.fromarray(noise(*SIZE)).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(SlideError, match=rf"{name}.* (decoded|opened|reads)") as caught:
            everything(tmp_path / name)
        assert "truncated" in caught.value.hint


def test_the_resolution_comes_from_the_manifest_or_a_plausible_tag(tmp_path: Path, shown: RGB) -> None:
    Image.fromarray(shown).save(tmp_path / "p.png")
    with pytest.raises(SlideError, match="does not contain its resolution"):
        everything(tmp_path / "p.png", None)
    Image.fromarray(shown).save(tmp_path / "p.png", dpi=(72, 72))
    with pytest.raises(SlideError, match=r"a resolution of 352\.\d* x 352\.\d* um/px; plausible"):
        everything(tmp_path / "p.png", None)
    tifffile.imwrite(
        tmp_path / "p.tif", shown, photometric="rgb", resolution=(20000, 20000), resolutionunit="CENTIMETER"
    )
    with Slide(tmp_path / "p.tif") as slide:
        assert slide.header.mpp_l0 == pytest.approx(0.5, rel=1e-4)


@needs_tiffslide
@pytest.mark.parametrize(("unit", "said"), [("µm", 0.4), ("nm", 400.0), ("mm", 0.0004)])
def test_the_resolution_of_ome_metadata(tmp_path: Path, shown: RGB, unit: str, said: float) -> None:
    with Slide(write_ome(tmp_path / "o.tif", shown, unit=unit, mpp=said)) as slide:
        assert slide.header.mpp_l0 == pytest.approx(0.4)
        assert slide.header.downsamples == (1.0, 4.0)
        assert slide.header.vendor == "ome-tiff"


@needs_tiffslide
def test_fluorescence_in_ome_tiff_is_refused(tmp_path: Path) -> None:
    pixels = np.zeros((3, *SIZE), np.uint16)
    tifffile.imwrite(
        tmp_path / "f.ome.tif", pixels, photometric="minisblack", tile=(256, 256), metadata={"axes": "CYX"}
    )
    with pytest.raises(
        SlideError, match=r"MINISBLACK pixels of uint16 with axes CYX, in tiles; allowed: tiled RGB or grayscale"
    ):
        everything(tmp_path / "f.ome.tif")


@needs_tiffslide
def test_tiles_that_a_remote_file_lacks_are_missing_pixels(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tif", noise(*SIZE), mpp=1.0, downsamples=())
    with tifffile.TiffFile(path, mode="r+") as file:
        tag = file.pages.first.tags["TileByteCounts"]
        tag.overwrite([0, *tag.value[1:]])
    with Slide(path.as_uri()) as slide:
        rgb, gaps = slide.read_with_gaps(0, 0, 300, 300)
    assert gaps is not None
    assert gaps[:256, :256].all()
    assert gaps.sum() == 256**2
    assert (rgb[gaps] == 255).all()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(SlideError, match=r"tiles are beyond the end|cannot be opened as a TIFF slide"):
        everything(path.as_uri())


@needs_tiffslide
def test_any_file_system_of_fsspec(tmp_path: Path, shown: RGB) -> None:
    import fsspec

    path = write_slide(tmp_path / "s.tif", shown, mpp=1.0, downsamples=())
    fsspec.filesystem("memory").pipe_file("/bucket/s.tif", path.read_bytes())
    assert np.array_equal(everything("memory://bucket/s.tif"), everything(path))
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """Serve a folder over HTTP with byte ranges, and as the bucket `bucket` of S3."""

    class Ranges(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = tmp_path / self.path.partition("?")[0].removeprefix("/bucket/").lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            content, asked = path.read_bytes(), self.headers.get("Range")
            first, _, last = (asked or "bytes=0-").removeprefix("bytes=").partition("-")
            end = min(int(last) + 1 if last else len(content), len(content))
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(end - int(first)))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"')
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")  # S3 sends both
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{end - 1}/{len(content)}")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content[int(first) : end])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Ranges) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@needs_tiffslide
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of botocore
def test_a_bucket_of_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: RGB, served: str) -> None:
    """The client is s3fs; the server answers what it asks for: HEAD, and GET with a range."""
    pytest.importorskip("s3fs")
    path = write_slide(tmp_path / "slide.tif", shown, mpp=1.0)
    for name, value in (("ENDPOINT_URL_S3", served), ("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert np.array_equal(everything("s3://bucket/slide.tif"), everything(path))
    assert fingerprint("s3://bucket/slide.tif") == fingerprint(path)
    monkeypatch.setattr(embed, "make_encoder", mean_colour_encoder)
    rows: list[dict[str, object]] = [
        {"slide_id": name, "slide_path": f"{place}.tif", "mpp": 1.0}
        for name, place in (("here", "slide"), ("there", "s3://bucket/slide"), ("absent", "s3://bucket/absent"))
    ]
    cache = tmp_path / "cache"
    assert embed.run(small_config(write_manifest(tmp_path / "m.csv", rows), cache)) == 1
    (failure,) = read_csv(cache / "failures.csv")
    assert failure["slide_id"] == "absent"
    assert "FileNotFoundError" in failure["error"]
    here, there = TokenStore.open(cache).files
    assert (here.meta.slide_id, there.meta.slide_id) == ("here", "there")
    assert np.array_equal(here.tokens.view(np.uint16), there.tokens.view(np.uint16))
    assert here.meta.slide_fingerprint == there.meta.slide_fingerprint


@needs_tiffslide
def test_the_same_plan_and_patches_from_a_slide_a_picture_and_ome_tiff(tmp_path: Path, shown: RGB) -> None:
    paths = [
        write_slide(tmp_path / "slide.tif", shown, mpp=1.0, downsamples=()),
        tmp_path / "p.png",
        tmp_path / "o.tif",
    ]
    Image.fromarray(shown).save(tmp_path / "p.png")
    tifffile.imwrite(tmp_path / "o.tif", shown, photometric="rgb", tile=(256, 256), ome=True, metadata={"axes": "YXS"})
    found: list[list[npt.NDArray[Any]]] = []
    for path in paths:
        with Slide(path, 1.0) as slide:
            lattice = lay_lattice(slide.header, target_mpp=1.0, patch_px=64, region_px=256, max_upsample=1.6)
            plan = plan_slide(slide, lattice, RegionSelectionConfig(min_tissue=0.1))
            blocks = [read_block(slide, lattice, plan.corner_l0(b), b, plan.overview(b)) for b in plan.blocks()]
            found.append([plan.tissue, plan.coords_l0, np.concatenate([block.patches for block in blocks])])
    for other in found[1:]:
        assert all(np.array_equal(one, two) for one, two in zip(found[0], other, strict=True))


@needs_tiffslide
@pytest.mark.slow
def test_the_same_tokens_from_a_slide_a_picture_a_web_server_and_ome_tiff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: RGB, served: str
) -> None:
    monkeypatch.setattr(embed, "make_encoder", mean_colour_encoder)
    write_slide(tmp_path / "slide.tif", shown, mpp=1.0, downsamples=())
    Image.fromarray(shown).save(tmp_path / "p.png")
    tifffile.imwrite(tmp_path / "o.tif", shown, photometric="rgb", tile=(256, 256), ome=True, metadata={"axes": "YXS"})
    places = {"slide": "slide.tif", "picture": "p.png", "remote": f"{served}/slide.tif", "ome": "o.tif"}
    rows: list[dict[str, object]] = [
        {"slide_id": name, "slide_path": path, "mpp": 1.0} for name, path in places.items()
    ]
    rows.append({"slide_id": "absent", "slide_path": f"{served}/absent.tif", "mpp": 1.0})
    cache = tmp_path / "cache"
    assert embed.run(small_config(write_manifest(tmp_path / "m.csv", rows), cache)) == 1
    (failure,) = read_csv(cache / "failures.csv")
    assert failure["slide_id"] == "absent"
    assert "cannot be opened (FileNotFoundError" in failure["error"]
    assert "address" in failure["hint"]
    files = {file.meta.slide_id: file for file in TokenStore.open(cache).files}
    assert sorted(files) == ["ome", "picture", "remote", "slide"]
    for file in files.values():
        assert np.array_equal(file.tokens.view(np.uint16), files["slide"].tokens.view(np.uint16))
        assert np.array_equal(file.tissue, files["slide"].tissue)
    assert files["remote"].meta.slide_fingerprint == fingerprint(tmp_path / "slide.tif")


def test_a_missing_extra_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: RGB) -> None:
    from slpd_toolkit.core.manifest import check_rows, read_table
    from slpd_toolkit.slides.sources import tiffslide

    monkeypatch.setattr(tiffslide, "find_spec", lambda _: None)
    with pytest.raises(SlideError, match="needs tiffslide, which is not installed") as caught:
        everything(write_ome(tmp_path / "o.tif", shown))
    assert "slpd-toolkit[remote]" in caught.value.hint
    monkeypatch.setattr("slpd_toolkit.core.manifest.find_spec", lambda _: None)
    manifest = write_manifest(tmp_path / "m.csv", [{"slide_id": "a", "slide_path": "s3://bucket/a.svs"}])
    entries, (problem,) = check_rows(read_table(manifest), tmp_path)
    assert not entries
    assert "slpd-toolkit[remote]" in problem.hint
