"""Masks in and out: what is drawn in GeoJSON or a label image is embedded, and outlines come back unchanged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from slpd_toolkit.commands import embed, export
from slpd_toolkit.config.export import ExportConfig
from slpd_toolkit.core.errors import SlideError, UsageError
from slpd_toolkit.representations.exports.outlines import outlines
from slpd_toolkit.slides import masks
from slpd_toolkit.slides.label_pictures import read_label_picture
from slpd_toolkit.slides.masks import MaskFile, read_mask
from slpd_toolkit.slides.opened_slide import SlideHeader
from slpd_toolkit.slides.slide import Thumbnail
from slpd_toolkit.store.token_file import TokenFile
from tests.cohorts import mean_colour_encoder, read_csv, small_config, write_cohort, write_manifest
from tests.slide_factory import tissue_on_glass, write_slide

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

WIDTH, HEIGHT, STEP = 1600, 1200, 8


def feature(rings: list[list[list[float]]], name: str | None = None, kind: str = "Polygon") -> dict[str, Any]:
    properties = {"objectType": "annotation"} | ({"classification": {"name": name}} if name else {})
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": rings}, "properties": properties}


def box(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def write(path: Path, features: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def drawn(path: Path, corner: tuple[int, int] = (0, 0), **use: Any) -> npt.NDArray[np.bool_]:
    rgb = np.zeros((HEIGHT // STEP, WIDTH // STEP, 3), np.uint8)
    header = SlideHeader(path, WIDTH, HEIGHT, 1.0, (1.0,), corner)
    return read_mask(MaskFile(path, **use), header, Thumbnail(rgb, STEP, 8.0))


def expected(*boxes: tuple[int, int, int, int]) -> npt.NDArray[np.bool_]:
    mask = np.zeros((HEIGHT // STEP, WIDTH // STEP), np.bool_)
    for left, top, right, bottom in boxes:
        mask[top // STEP : bottom // STEP, left // STEP : right // STEP] = True
    return mask


def test_polygons_holes_and_classes_of_qupath(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.geojson",
        [
            feature([box(80, 160, 480, 640), box(160, 240, 240, 320)], "Tumor"),
            feature([box(800, 160, 960, 320)], "Stroma"),
            feature([box(1200, 800, 1600, 1200)], "Ignore*"),
            feature([[box(0, 800, 80, 880)], [box(160, 800, 240, 880)]], "Tumor", "MultiPolygon"),  # type: ignore[list-item]
            feature([[1, 2], [3, 4]], "Tumor", "LineString"),  # type: ignore[list-item]
        ],
    )
    tumor = expected((80, 160, 480, 640), (0, 800, 80, 880), (160, 800, 240, 880))
    tumor &= ~expected((160, 240, 240, 320))
    assert np.array_equal(drawn(path, classes=("Tumor",)), tumor)
    assert np.array_equal(drawn(path, classes=("Stroma",)), expected((800, 160, 960, 320)))
    assert np.array_equal(drawn(path), tumor | expected((800, 160, 960, 320)))
    with pytest.raises(SlideError, match=r"no area of the class Tumour; found: Ignore\*, Stroma, Tumor"):
        drawn(path, classes=("Tumour",))


def test_a_file_as_qupath_writes_it(tmp_path: Path) -> None:
    """IDs, colors, locks, measurements, an ellipse as a polygon, a collection, and a shape that leaves the slide."""
    angles = np.linspace(0, 2 * np.pi, 121)[:-1]
    ellipse = np.stack([1200 + 240 * np.cos(angles), 300 + 160 * np.sin(angles)], axis=1).round(2).tolist()
    tumor = {"objectType": "annotation", "classification": {"name": "Tumor", "color": [200, 0, 0]}, "isLocked": True}
    old = {"object_type": "annotation", "classification": {"name": "Tumor", "colorRGB": -3670016}}
    shapes: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"type": "Polygon", "coordinates": [box(80, 160, 480, 640)]}, tumor | {"measurements": {"Area px^2": 192000}}),
        ({"type": "Polygon", "coordinates": [[*ellipse, ellipse[0]]], "isEllipse": True}, tumor),
        ({"type": "Polygon", "coordinates": [box(-400, 960, 160, 5000)]}, old),
        (
            {
                "type": "GeometryCollection",
                "geometries": [
                    {"type": "MultiPolygon", "coordinates": [[box(800, 800, 960, 960)], [box(1040, 800, 1120, 960)]]},
                    {"type": "Point", "coordinates": [5, 5]},
                ],
            },
            {"objectType": "annotation", "classification": {"names": ["Tumor"], "color": [200, 0, 0]}, "name": "x"},
        ),
    ]
    features = [
        {"type": "Feature", "id": f"00000000-{number}", "geometry": geometry, "properties": properties}
        for number, (geometry, properties) in enumerate(shapes)
    ]
    found = drawn(write(tmp_path / "m.geojson", features))
    boxes = expected((80, 160, 480, 640), (0, 960, 160, 1200), (800, 800, 960, 960), (1040, 800, 1120, 960))
    rows, columns = (np.indices(found.shape) + 0.5) * STEP
    far = ((columns - 1200) / 240) ** 2 + ((rows - 300) / 160) ** 2
    clear = (far < 0.9) | (far > 1.1)  # not on the border of the ellipse
    assert np.array_equal(found[clear], (boxes | (far < 1))[clear])


def test_contours_as_trident_writes_them(tmp_path: Path) -> None:
    """One feature per piece of tissue, with a number, in whole-slide coordinates."""
    features = [
        {"type": "Feature", "properties": {"tissue_id": number}, "geometry": {"type": "Polygon", "coordinates": rings}}
        for number, rings in enumerate(
            [[box(80.0, 160.0, 480.0, 640.0), box(160.0, 240.0, 240.0, 320.0)], [box(800.0, 160.0, 960.0, 320.0)]]
        )
    ]
    tissue = expected((80, 160, 480, 640), (800, 160, 960, 320)) & ~expected((160, 240, 240, 320))
    assert np.array_equal(drawn(write(tmp_path / "m.geojson", features), (80, 40), crop=False), tissue)


def test_an_area_is_right_within_a_pixel_of_its_border(tmp_path: Path) -> None:
    angles = np.linspace(0, 2 * np.pi, 200)
    ring = np.stack([700 + 400 * np.cos(angles), 600 + 400 * np.sin(angles)], axis=1).tolist()
    area = drawn(write(tmp_path / "m.geojson", [feature([ring])])).sum() * STEP**2
    assert area == pytest.approx(np.pi * 400**2, rel=0.005)


def test_other_shapes_of_geojson(tmp_path: Path) -> None:
    for content in (
        feature([box(80, 160, 480, 640)]),
        [feature([box(80, 160, 480, 640)])],
        {"type": "Polygon", "coordinates": [box(80, 160, 480, 640)]},
        {"type": "GeometryCollection", "geometries": [{"type": "Polygon", "coordinates": [box(80, 160, 480, 640)]}]},
    ):
        (tmp_path / "m.json").write_text(json.dumps(content))
        assert np.array_equal(drawn(tmp_path / "m.json"), expected((80, 160, 480, 640)))


def test_coordinates_begin_at_the_bounds_unless_told_otherwise(tmp_path: Path) -> None:
    path = write(tmp_path / "m.geojson", [feature([box(80, 160, 480, 640)])])
    assert np.array_equal(drawn(path, (80, 40)), expected((160, 200, 560, 680)))
    assert np.array_equal(drawn(path, (80, 40), crop=False), expected((80, 160, 480, 640)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not GeoJSON"),
        ("{}", "is not GeoJSON"),
        ("[1]", "is not GeoJSON"),
        ('{"type": "FeatureCollection", "features": []}', "has no polygon"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1, NaN], [1, 1]]]}', "is not GeoJSON"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1, 1e12], [1, 1]]]}', "is not GeoJSON"),
        ("[" * 5000, "is not GeoJSON"),
    ],
)
def test_what_is_not_geojson_is_an_error_of_its_slide(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "m.geojson").write_text(text)
    with pytest.raises(SlideError, match=said):
        drawn(tmp_path / "m.geojson")


@pytest.mark.parametrize("scale", [1, 4, 8, 20])
@pytest.mark.parametrize("kind", ["png", "palette", "16-bit", "pyramid"])
def test_label_pictures_of_any_size(tmp_path: Path, scale: int, kind: str) -> None:
    labels = np.zeros((HEIGHT // scale, WIDTH // scale), np.uint8)
    labels[400 // scale : 800 // scale, 400 // scale : 800 // scale] = 3
    labels[: 400 // scale, : 400 // scale] = 7
    path = tmp_path / ("m.tif" if kind == "pyramid" else "m.png")
    if kind == "pyramid":
        with tifffile.TiffWriter(path) as file:
            for part in (labels, labels[::2, ::2]):
                rgb = np.dstack([part] * 3)
                file.write(
                    rgb, tile=(256, 256), photometric="rgb", compression="zlib", subfiletype=int(part is not labels)
                )
    else:
        picture = Image.fromarray(labels.astype(np.uint16) if kind == "16-bit" else labels)
        if kind == "palette":
            picture.putpalette([5, 5, 5, *range(250)] * 3)
        picture.save(path)
    tolerance = 0 if scale <= 8 else 100
    assert (drawn(path, classes=("3",)) != expected((400, 400, 800, 800))).sum() <= tolerance
    assert (drawn(path) != expected((400, 400, 800, 800), (0, 0, 400, 400))).sum() <= 2 * tolerance
    with pytest.raises(
        SlideError, match=r"no pixel with the label 4; found: 0, 3, 7|no pixel with the label 4; found: 0"
    ):
        drawn(path, classes=("4",))
    with pytest.raises(SlideError, match="got Tumor; the classes of the label image"):
        drawn(path, classes=("Tumor",))


def test_color_pictures_and_other_proportions_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (160, 120), (1, 2, 3)).save(tmp_path / "c.png")
    with pytest.raises(SlideError, match="is a color image"):
        drawn(tmp_path / "c.png")
    Image.new("L", (160, 160), 1).save(tmp_path / "p.png")
    with pytest.raises(SlideError, match=r"but its slide has [\d,]+ x [\d,]+: the aspect ratios differ"):
        drawn(tmp_path / "p.png")


HIGH = {"type": "Polygon", "coordinates": [[[80, 160, 1], [480, 160, 1], [480, 640, 1], [80, 640, 1]]]}
BOW_TIE = {"type": "Polygon", "coordinates": [[[0, 0], [800, 800], [800, 0], [0, 800], [0, 0]]]}
CLOUD = {"type": "Polygon", "coordinates": [np.random.default_rng(0).uniform(-99, 1500, (300, 2)).tolist()]}


@pytest.mark.parametrize(
    "extra",
    [
        {"type": "Feature", "geometry": None, "properties": None},
        feature([box(-9e6, -9e6, -8e6, -8e6)]),
        feature([[[5, 5]]]),
        feature([]),
        {"type": "Feature", "geometry": {"type": "MultiPoint", "coordinates": [[1, 2]]}, "properties": {}},
    ],
)
def test_features_without_area_on_the_slide_change_nothing(tmp_path: Path, extra: dict[str, Any]) -> None:
    shapes = [extra, {"type": "Feature", "geometry": HIGH, "properties": {"classification": {"names": ["A", "B"]}}}]
    text = json.dumps({"type": "FeatureCollection", "features": shapes}, indent=1).replace("\n", "\r\n")
    (tmp_path / "m.geojson").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert np.array_equal(drawn(tmp_path / "m.geojson"), expected((80, 160, 480, 640)))
    assert np.array_equal(drawn(tmp_path / "m.geojson", classes=("A: B",)), expected((80, 160, 480, 640)))
    with pytest.raises(SlideError, match=r"no area of the class Tumor; found: A: B") as caught:
        drawn(tmp_path / "m.geojson", classes=("Tumor",), mode="not")
    assert "Leave mask_path empty" in caught.value.hint


def test_outlines_that_cross_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pixel with an odd number of lines to its left is inside; drawing in parts bounds the memory."""
    (tmp_path / "m.json").write_text(json.dumps(BOW_TIE))
    rows, columns = (np.indices((HEIGHT // STEP, WIDTH // STEP)) + 0.5) * STEP
    high, wide = np.abs(rows - 400), np.abs(columns - 400)
    triangles, clear = (wide < 400) & (high < wide), np.abs(high - wide) > STEP
    assert np.array_equal(drawn(tmp_path / "m.json")[clear], triangles[clear])
    (tmp_path / "m.json").write_text(json.dumps(CLOUD))
    whole = drawn(tmp_path / "m.json")
    assert 0.2 < whole.mean() < 0.8
    monkeypatch.setattr(masks, "_CROSSINGS_AT_ONCE", 1 << 12)
    assert np.array_equal(drawn(tmp_path / "m.json"), whole)


@pytest.mark.parametrize(
    ("coordinates", "said"),
    [
        ([[box(0, 0, 9, 9), box(0, 0, 9, 9)]], "a Polygon with wrongly nested coordinates"),
        ([[[1], [2], [3], [4]]], "a Polygon with wrongly nested coordinates"),
        ([[[0, 0], [10**400, 0], [1, 1]]], "is not GeoJSON"),
        ([[0, 0], [1, 0], [1, 1]], "is not GeoJSON"),
        ([[[0, 0], None, [1, 1]]], "is not GeoJSON"),
    ],
)
def test_coordinates_of_another_shape_are_no_polygon(tmp_path: Path, coordinates: Any, said: str) -> None:
    (tmp_path / "m.json").write_text(json.dumps({"type": "Polygon", "coordinates": coordinates}))
    with pytest.raises(SlideError, match=said):
        drawn(tmp_path / "m.json")


@pytest.mark.parametrize("name", ["m.xml", "m.geojson.gz", "m.zip"])
def test_annotations_in_other_formats_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"<xml/>")
    with pytest.raises(SlideError, match="is neither GeoJSON") as caught:
        drawn(tmp_path / name)
    assert "Unpack" in caught.value.hint


def test_label_images_whose_numbers_would_change_are_refused(tmp_path: Path) -> None:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[400:800, 400:800] = 3
    Image.fromarray(labels).save(tmp_path / "m.jpg")
    tifffile.imwrite(tmp_path / "j.tif", labels, tile=(256, 256), compression="jpeg")
    tifffile.imwrite(tmp_path / "w.tif", labels.astype(np.uint16), tile=(256, 256))
    for name, said in (("m.jpg", "compressed as JPEG"), ("j.tif", "compressed as JPEG"), ("w.tif", "with 16 bits")):
        with pytest.raises(SlideError, match=said):
            drawn(tmp_path / name)
    tifffile.imwrite(tmp_path / "w.tif", labels.astype(np.uint16))
    assert np.array_equal(drawn(tmp_path / "w.tif", classes=("3",)), expected((400, 400, 800, 800)))


def test_outlines_are_read_back_as_the_same_mask(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.standard_normal((HEIGHT // STEP, WIDTH // STEP)), (0, 0), 3)
    mask = noise > 0.02  # pieces with holes and islands in them, up to the border
    (tmp_path / "m.geojson").write_text(json.dumps(outlines(mask, STEP, (80, 40))))
    assert np.array_equal(drawn(tmp_path / "m.geojson", (80, 40)), mask)
    assert not outlines(np.zeros((4, 4), np.bool_), STEP)["features"]


@pytest.fixture(autouse=True)
def mean_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "make_encoder", mean_colour_encoder)


def masked(tmp_path: Path, **changes: Any) -> tuple[int, Path]:
    """Embed a slide of two pieces of tissue with a mask over the left one and glass below it."""
    if not (tmp_path / "s.tif").exists():
        write_slide(
            tmp_path / "s.tif", tissue_on_glass(512, 1024, [(0, 0, 256, 256), (768, 0, 1024, 256)], mpp=1.0), mpp=1.0
        )
    write(tmp_path / "m.geojson", [feature([box(0, 0, 256, 384)], "Tumor")])
    row = {"slide_id": "s", "slide_path": "s.tif", "mask_path": "m.geojson"}
    manifest = write_manifest(tmp_path / "m.csv", [row])
    return embed.run(small_config(manifest, tmp_path / "cache", overwrite=True, **changes)), tmp_path / "cache"


@pytest.mark.slow
def test_regions_follow_the_mask_and_its_share_is_stored(tmp_path: Path) -> None:
    code, cache = masked(tmp_path)
    assert code == 0
    file = TokenFile.open(cache / "s.h5")
    assert file.coords.tolist() == [[0, 0], [0, 256]]
    assert (file.tissue[0] == 1).all()
    assert file.tissue[1, :2].mean() == 1
    assert file.tissue[1, 2:].max() == 0
    said = json.loads(file.meta.mask)
    assert (said["mode"], said["path"], len(said["digest"])) == ("only", "m.geojson", 16)
    assert masked(tmp_path, mask_mode="and", mask_classes="Tumor")[0] == 0
    assert TokenFile.open(cache / "s.h5").coords.tolist() == [[0, 0]]
    assert masked(tmp_path, mask_mode="not")[0] == 0
    assert TokenFile.open(cache / "s.h5").coords.tolist() == [[768, 0]]
    assert masked(tmp_path, mask_classes="Necrosis")[0] == 1
    assert "no area of the class Necrosis; found: Tumor" in read_csv(cache / "failures.csv")[0]["error"]


@pytest.mark.slow
def test_another_mask_is_another_file(tmp_path: Path) -> None:
    _, cache = masked(tmp_path)
    assert TokenFile.open(cache / "s.h5").coords.tolist() == [[0, 0], [0, 256]]
    write(tmp_path / "m.geojson", [feature([box(0, 0, 256, 300)], "Tumor")])
    assert embed.run(small_config(tmp_path / "m.csv", cache)) == 1
    (failure,) = read_csv(cache / "failures.csv")
    assert "mask: " in failure["error"]
    assert "--overwrite" in failure["hint"]


def test_a_mask_that_is_missing_leaves_its_slide_out(tmp_path: Path) -> None:
    write_cohort(tmp_path, 2)
    write(tmp_path / "m.geojson", [feature([box(0, 0, 400, 400)])])
    rows = [
        {"slide_id": "s0", "slide_path": "s0.tif", "mask_path": "m.geojson"},
        {"slide_id": "s1", "slide_path": "s1.tif", "mask_path": ""},
        {"slide_id": "s2", "slide_path": "s1.tif", "mask_path": "absent.png"},
    ]
    manifest = write_manifest(tmp_path / "m.csv", rows)
    assert embed.run(small_config(manifest, tmp_path / "cache")) == 1
    errors = {row["slide_id"]: row["error"] for row in read_csv(tmp_path / "cache" / "failures.csv")}
    assert errors["s1"] == "mask_path is empty."
    assert "no such file" in errors["s2"]
    assert embed.run(small_config(manifest, tmp_path / "other", mask_mode="not")) == 1
    assert sorted(path.stem for path in (tmp_path / "other").glob("*.h5")) == ["s0", "s1"]


def test_from_tissue_to_qupath_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_cohort(tmp_path, 2)
    detected, edited = tmp_path / "detected", tmp_path / "edited"
    monkeypatch.setattr(embed, "make_encoder", lambda *_, **__: pytest.fail("no encoder is needed"))
    assert embed.run(small_config(manifest, detected, tissue_only=True)) == 0
    assert sorted(path.name for path in (detected / "masks").iterdir()) == ["s0.png", "s1.png"]
    assert (detected / "qc" / "s0.jpg").exists()
    assert "not embedded" in (detected / "qc" / "index.html").read_text()
    assert not list(detected.glob("*.h5"))
    assert export.run(ExportConfig(source=detected, to="geojson", out=tmp_path / "outlines")) == 0
    for suffix, folder in ((".geojson", tmp_path / "outlines"), (".png", detected / "masks")):
        rows = [
            {"slide_id": f"s{n}", "slide_path": f"s{n}.tif", "mask_path": folder / f"s{n}{suffix}"} for n in range(2)
        ]
        config = small_config(write_manifest(tmp_path / "masked.csv", rows), edited, tissue_only=True)
        assert embed.run(config) == 0
        for name in ("s0.png", "s1.png"):
            mask, about = read_label_picture(detected / "masks" / name)
            assert mask.any()
            assert about["focus"] > 0
            assert np.array_equal(read_label_picture(edited / "masks" / name)[0], mask)
    with pytest.raises(UsageError, match="has no tissue masks"):
        export.run(ExportConfig(source=tmp_path, to="geojson", out=tmp_path / "outlines"))
