"""`slpd heatmap`: scores of an evaluation and of other tools, with and without slides."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from slpd_toolkit.cli import app as cli
from slpd_toolkit.commands import heatmap
from slpd_toolkit.config.heatmap import HeatmapConfig
from slpd_toolkit.core.errors import CacheError, UsageError
from slpd_toolkit.report import heatmap_files
from slpd_toolkit.report.scores import FILENAME, read_scores, write_scores
from tests.report.evaluations import classification, planted_evaluation
from tests.slide_factory import write_scn, write_slide

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

ROWS = """slide_id,note,x_l0,y_l0,size_l0,score
one,a,0,0,256,0.5
one,b,256,0,256,2
two,c,100,100,50,-1.25
"""


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `slpd mil-eval` with the scores of two models."""
    folder = tmp_path_factory.mktemp("eval")
    cohort, task = classification(12, ["a", "b"])
    strengths = {"slpd": 1.0, "dino": 0.5}
    write_scores(folder / FILENAME, planted_evaluation(cohort, task, strengths, aggregators=["abmil"], folds=3))
    return folder


def show(scores: Path, out: Path, **settings: Any) -> tuple[int, list[str]]:
    # In this process: starting others takes longer than drawing does.
    code = heatmap.run(HeatmapConfig(scores=scores, out=out, **{"jobs": 1, **settings}))
    return code, sorted(item.name for item in out.iterdir())


def failures(out: Path) -> list[dict[str, str]]:
    with (out / "failures.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def write_csv(path: Path, text: str = ROWS) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_csv_of_any_tool_needs_no_slide(tmp_path: Path) -> None:
    code, names = show(write_csv(tmp_path / "scores.csv"), tmp_path / "out")
    assert code == 0
    assert names == ["failures.csv", "one.geojson", "one.png", "two.geojson", "two.png"]
    features = json.loads((tmp_path / "out" / "one.geojson").read_text())["features"]
    assert [feature["properties"]["measurements"]["score"] for feature in features] == [0.5, 2]
    assert features[1]["geometry"]["coordinates"][0][2] == [512, 256]
    with Image.open(tmp_path / "out" / "one.png") as picture:
        assert max(picture.size) > 1200


def test_scores_of_an_evaluation(evaluation: Path, tmp_path: Path) -> None:
    code, names = show(evaluation, tmp_path / "out", model="dino", format="geojson")
    assert code == 0
    table = read_scores(evaluation / FILENAME)[1]
    assert len(names) == len(table.slide_ids) + 1
    features = json.loads((tmp_path / "out" / f"{table.slide_ids[0]}.geojson").read_text())["features"]
    found = [feature["properties"]["measurements"]["score"] for feature in features]
    np.testing.assert_allclose(found, table.slide(0).scores)


@pytest.mark.slow
def test_it_is_chosen_which_scores_and_slides(evaluation: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"several sets.*--model slpd --aggregator abmil; --model dino"):
        show(evaluation, tmp_path / "out")
    with pytest.raises(UsageError, match=r"no scores match.*Choose one: --model slpd"):
        show(evaluation, tmp_path / "out", model="absent")
    with pytest.raises(UsageError, match="there are no scores for absent"):
        show(evaluation, tmp_path / "out", model="slpd", slide=("absent",))
    assert not (tmp_path / "out").exists()
    _, names = show(evaluation / FILENAME, tmp_path / "out", model="slpd", slide=("p003-0", "p001-0"), format="png")
    assert names == ["failures.csv", "p001-0.png", "p003-0.png"]
    _, names = show(evaluation, tmp_path / "few", model="slpd", limit=2, format="png")
    assert names == ["failures.csv", "p000-0.png", "p000-1.png"]


def test_bad_slides_are_listed_and_the_others_done(tmp_path: Path) -> None:
    bad = ROWS + "three,d,1,1,zero,1\n../four,e,1,1,1,1\nfive,f,1,1,0,1\nsix,g,1,1,1,inf\nseven,h,1e300,1,1,1\n"
    code, names = show(write_csv(tmp_path / "scores.csv", bad), tmp_path / "out", format="geojson")
    assert code == 1
    assert names == ["failures.csv", "one.geojson", "two.geojson"]
    found = failures(tmp_path / "out")
    assert [row["slide_id"] for row in found] == ["three", "../four", "five", "six", "seven"]
    assert "row 5 has x_l0 1.0, y_l0 1, size_l0 zero" in found[0]["error"]
    assert "is not a valid file name" in found[1]["error"]
    assert not (tmp_path / "four.geojson").exists()


@pytest.mark.slow
def test_pixels_of_the_slides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One slide is dark; the file of the other is not a slide, so its image has no pixels."""
    dark = np.full((512, 512, 3), 40, np.uint8)
    tifffile.imwrite(tmp_path / "one.tiff", dark, tile=(256, 256), photometric="rgb", compression="deflate")
    (tmp_path / "two.tiff").write_bytes(b"no slide")
    (tmp_path / "m.csv").write_text("slide_id,slide_path\none,one.tiff\ntwo,two.tiff\nthree,absent.tiff\n")
    more = "three,e,0,0,256,1\nfour,f,0,0,256,1\n"
    scores = write_csv(tmp_path / "scores.csv", ROWS + more)
    code, names = show(scores, tmp_path / "out", manifest=tmp_path / "m.csv", side_px=400, format="png")
    assert code == 1
    assert names == ["failures.csv", "four.png", "one.png", "three.png", "two.png"]
    found = {row["slide_id"]: row for row in failures(tmp_path / "out")}
    assert sorted(found) == ["three", "two"]
    assert found["three"]["error"].startswith("Shown without pixels: no such file: ")
    assert found["three"]["path"] == "absent.tiff"
    assert "1 slide is not in" in (said := capsys.readouterr().err)
    assert "shown without pixels: four." in said

    def darkest(name: str) -> float:
        with Image.open(tmp_path / "out" / name) as picture:
            pixels = np.asarray(picture.convert("L"))
        return float((pixels == 40).mean())

    assert darkest("one.png") > 0.2
    assert darkest("two.png") < 0.01


@pytest.mark.slow
def test_a_slide_of_another_size_is_not_drawn_on(evaluation: Path, tmp_path: Path) -> None:
    rgb = np.full((512, 512, 3), 40, np.uint8)
    tifffile.imwrite(tmp_path / "s.tiff", rgb, tile=(256, 256), photometric="rgb", compression="deflate")
    (tmp_path / "m.csv").write_text("slide_id,slide_path\np000-0,s.tiff\n")
    code, names = show(evaluation, tmp_path / "out", model="slpd", manifest=tmp_path / "m.csv", slide=("p000-0",))
    assert code == 1
    assert names == ["failures.csv", "p000-0.geojson", "p000-0.png"]
    assert "has 512 x 512 px, but the scored slide had 4,000 x 4,000" in failures(tmp_path / "out")[0]["error"]


def first_corner(path: Path) -> list[int]:
    corner: list[int] = json.loads(path.read_text())["features"][0]["geometry"]["coordinates"][0][0]
    return corner


@pytest.fixture
def cropped(tmp_path: Path) -> Path:
    """A manifest: `one` has bounds that start at (1000, 700), `two` has none."""
    write_scn(tmp_path / "one.scn", np.full((512, 768, 3), 40, np.uint8), (1000, 700), (4800, 3600))
    write_slide(tmp_path / "two.tif", np.full((512, 512, 3), 40, np.uint8))
    path = tmp_path / "m.csv"
    path.write_text("slide_id,slide_path\none,one.scn\ntwo,two.tif\n")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["geojson", "both"])
def test_geojson_is_relative_to_the_bounds_that_qupath_crops_to(
    tmp_path: Path, cropped: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    scores = write_csv(tmp_path / "scores.csv", ROWS.replace("one,a,0,0", "one,a,1024,1024"))
    code, _ = show(scores, tmp_path / "out", manifest=cropped, format=kind)
    assert code == 0
    assert first_corner(tmp_path / "out" / "one.geojson") == [24, 324]
    assert first_corner(tmp_path / "out" / "two.geojson") == [100, 100]
    feature = json.loads((tmp_path / "out" / "one.geojson").read_text())["features"][0]
    assert feature["properties"]["name"] == "one x 1024 y 1024"
    said = capsys.readouterr().err
    assert "GeoJSON of 1 slide is relative to OpenSlide's bounds" in said
    assert "whole slide" not in said


@pytest.mark.slow
def test_geojson_of_the_whole_slide_on_request(
    tmp_path: Path, cropped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = write_csv(tmp_path / "scores.csv", ROWS.replace("one,a,0,0", "one,a,1024,1024"))
    code, _ = show(scores, tmp_path / "out", manifest=cropped, crop=False)
    assert code == 0
    assert first_corner(tmp_path / "out" / "one.geojson") == [1024, 1024]
    assert "bounds" not in capsys.readouterr().err


def test_geojson_without_known_bounds_says_so(
    tmp_path: Path, cropped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = write_csv(tmp_path / "scores.csv")
    assert show(scores, tmp_path / "out", format="geojson")[0] == 0
    assert "GeoJSON of 2 slides is in whole-slide coordinates (no --manifest" in capsys.readouterr().err
    (tmp_path / "one.scn").unlink()
    assert show(scores, tmp_path / "out", format="geojson", manifest=cropped)[0] == 1
    assert failures(tmp_path / "out")[0]["error"].startswith("Written in whole-slide coordinates: no such file")
    assert "GeoJSON of 1 slide is in whole-slide coordinates" in capsys.readouterr().err
    assert first_corner(tmp_path / "out" / "one.geojson") == [0, 0]
    assert show(scores, tmp_path / "out", format="geojson", manifest=cropped, crop=False)[0] == 0


@pytest.mark.parametrize(
    ("taken", "said"),
    [("out", "it, or one of its parents, is an existing file"), ("out/failures.csv/", r"failures\.csv is a folder")],
)
def test_an_output_that_cannot_be_written_to_stops_before_the_work(tmp_path: Path, taken: str, said: str) -> None:
    path = tmp_path / taken
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if taken.endswith("/") else path.touch()
    with pytest.raises(UsageError, match=f"--out: .*{said}"):
        show(write_csv(tmp_path / "scores.csv"), tmp_path / "out")
    assert not list(tmp_path.rglob("one.*"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read"),
        ("slide_id,x_l0,y_l0,size_l0,score\n", "has no rows"),
        ("slide_id,x,y,size_l0,score\na,1,1,1,1\n", "columns x_l0, y_l0 are missing; found slide_id, x, y"),
    ],
)
def test_a_file_that_is_no_table_of_scores(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        show(write_csv(tmp_path / "scores.csv", text), tmp_path / "out")


def test_what_holds_no_scores(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"scores\.h5 does not exist.*mil-eval"):
        show(tmp_path, tmp_path / "out")
    cohort, task = classification(12, ["a", "b"])
    write_scores(tmp_path / FILENAME, planted_evaluation(cohort, task, {"m": 1}, aggregators=["probe"], folds=3))
    with pytest.raises(UsageError, match=r"contains no scores.*--aggregator abmil"):
        show(tmp_path, tmp_path / "out")
    with pytest.raises(UsageError, match=r"is a CSV; --model"):
        show(write_csv(tmp_path / "scores.csv"), tmp_path / "out", model="m")


def spoil(path: Path, **arrays: Any) -> Path:
    """Replace arrays of the scores of the first model, each by a function of the existing array; without a digest."""
    with h5py.File(path, "r+") as file:
        del file["0"].attrs["digest"]
        for name, change in arrays.items():
            before = file["0"][name]
            values = change(before.asstr()[...] if name == "slide_ids" else before[...])
            del file["0"][name]
            dtype = h5py.string_dtype() if name == "slide_ids" else None
            file["0"].create_dataset(name, data=values, dtype=dtype)
    return path


def with_first(*values: Any) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    """Replace the first items of an array."""

    def change(before: npt.NDArray[Any]) -> npt.NDArray[Any]:
        first = np.array(values, before.dtype).reshape(-1, *before.shape[1:])
        return np.concatenate([first, before[len(first) :]])

    return change


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        ({"scores": with_first(np.nan)}, r"1 of \d+ scores is NaN or infinite"),
        ({"scores": with_first(np.inf, -np.inf)}, r"2 of \d+ scores are NaN or infinite"),
        ({"region_l0": with_first(0)}, r"squares cannot lie on a slide.* with a side of 0 px"),
        ({"coords_l0": with_first(2**62, 0)}, r"1 of \d+ squares cannot lie on a slide"),
        ({"slide_ids": with_first("../out")}, "is not a valid file name"),
        ({"slide_ids": with_first("a\nb")}, "is not a valid file name"),
        ({"slide_ids": with_first("肺\x1b[31m")}, "is not a valid file name"),
        ({"slide_ids": with_first("")}, "is not a valid file name"),
    ],
)
def test_one_spoilt_slide_costs_itself_alone(
    evaluation: Path, tmp_path: Path, spoilt: dict[str, Any], said: str
) -> None:
    path = spoil(Path(shutil.copy(evaluation / FILENAME, tmp_path)), **spoilt)
    slides = read_scores(path)[0].slide_ids
    code, names = show(path, tmp_path / "out", model="slpd", format="geojson")
    assert code == 1
    assert names == sorted(["failures.csv", *(f"{slide}.geojson" for slide in slides[1:])])
    (found,) = failures(tmp_path / "out")
    assert found["slide_id"] == slides[0]
    assert re.search(said, found["error"])


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        ({"slide_ids": with_first("p000-1", "p000-1")}, "duplicate slide_id"),
        ({"coords_l0": lambda before: before.astype(np.float64)}, r"coords_l0 \(float64\) has the wrong type"),
        ({"scores": lambda before: before.astype("S8")}, r"scores \(object\) has the wrong type"),
        ({"offsets": lambda before: before[::-1]}, "offsets do not divide"),
    ],
)
def test_a_file_whose_parts_do_not_fit_is_refused(
    evaluation: Path, tmp_path: Path, spoilt: dict[str, Any], said: str
) -> None:
    path = spoil(Path(shutil.copy(evaluation / FILENAME, tmp_path)), **spoilt)
    with pytest.raises(CacheError, match=said):
        show(path, tmp_path / "out", model="slpd")


@pytest.mark.parametrize("keep", [0, 100, 3000])
def test_a_file_that_was_cut_off_is_refused(evaluation: Path, tmp_path: Path, keep: int) -> None:
    (tmp_path / FILENAME).write_bytes((evaluation / FILENAME).read_bytes()[:keep])
    with pytest.raises(CacheError, match="cannot be read as a score file"):
        show(tmp_path, tmp_path / "out", model="slpd")


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["rank", "linear"])
def test_equal_scores_and_a_single_square_are_drawn(tmp_path: Path, scale: str) -> None:
    text = "slide_id,x_l0,y_l0,size_l0,score\na,0,0,256,1\na,256,0,256,1\nb,0,0,256,-3\n"
    code, names = show(write_csv(tmp_path / "scores.csv", text), tmp_path / "out", scale=scale)
    assert (code, names) == (0, ["a.geojson", "a.png", "b.geojson", "b.png", "failures.csv"])
    features = json.loads((tmp_path / "out" / "a.geojson").read_text())["features"]
    assert len({str(feature["properties"]["color"]) for feature in features}) == 1


@pytest.mark.slow
def test_a_slide_that_fails_leaves_no_picture_of_an_earlier_run(tmp_path: Path) -> None:
    scores = write_csv(tmp_path / "scores.csv")
    show(scores, tmp_path / "out")
    (tmp_path / "out" / "mine.txt").touch()
    write_csv(scores, ROWS.replace("0.5", "nan"))
    code, names = show(scores, tmp_path / "out")
    assert (code, names) == (1, ["failures.csv", "mine.txt", "two.geojson", "two.png"])


def test_whatever_is_wrong_with_one_slide_the_others_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out" / "one.geojson").mkdir(parents=True)
    code, names = show(write_csv(tmp_path / "scores.csv"), tmp_path / "out", format="geojson")
    assert (code, names) == (1, ["failures.csv", "one.geojson", "two.geojson"])

    def fail(*_: object) -> None:
        raise ZeroDivisionError("nobody thought of it")

    monkeypatch.setattr(heatmap_files, "write_heatmap", fail)
    code, names = show(tmp_path / "scores.csv", tmp_path / "new")
    assert (code, names) == (1, ["failures.csv"])
    assert [row["slide_id"] for row in failures(tmp_path / "new")] == ["one", "two"]
    assert "ZeroDivisionError: nobody thought of it" in failures(tmp_path / "new")[0]["error"]


@pytest.mark.slow
def test_processes_change_no_byte(evaluation: Path, tmp_path: Path) -> None:
    drawn = []
    for jobs in (1, 2):
        code, names = show(evaluation, tmp_path / f"{jobs}", model="slpd", jobs=jobs)
        assert code == 0
        drawn.append([(tmp_path / f"{jobs}" / name).read_bytes() for name in names])
    assert len(drawn[0]) > 2 * heatmap._SLIDES_A_PROCESS
    assert drawn[0] == drawn[1]


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    write_csv(tmp_path / "scores.csv")
    arguments = [str(tmp_path / "scores.csv"), "--out", str(tmp_path / "out"), "--slide", "two", "--scale", "linear"]
    done = CliRunner().invoke(cli.app, ["heatmap", *arguments])
    assert done.exit_code == 0, done.output
    assert "1 of 1 slide is in" in done.output
    assert (tmp_path / "out" / "two.png").exists()
    assert CliRunner().invoke(cli.app, ["heatmap", *arguments, "--format", "jpeg"]).exit_code == 2
