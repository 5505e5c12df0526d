"""`slpd view`: what it finds and answers, without a browser; `tests/report/test_viewer_page.py` opens one."""

from __future__ import annotations

import io
import shutil
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from slpd_toolkit.commands.view import OpenedView, open_view
from slpd_toolkit.config.view import ViewConfig
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.representations.region_vectors import mean_tokens
from slpd_toolkit.store import token_file
from slpd_toolkit.store.token_file import TokenFile
from tests.cohorts import read_csv, write_manifest
from tests.guarded_work import abort_always
from tests.report.viewing import HEIGHT_L0, SIDE_L0, WIDTH_L0, Answer, get, tokens_of, write_study

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REGIONS = {"s1": 6, "s2": 3, "s3": 9}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("viewed"), REGIONS)


@pytest.fixture(scope="module")
def opened(study: Path) -> Iterator[OpenedView]:
    with open_view(ViewConfig(folder=study, port=0)) as found:
        yield found


def ask(opened: OpenedView, path: str, **headers: str) -> Answer:
    app = opened.server.app
    return get(app, path, {"authorization": f"token {opened.server.token}", **headers})


def cohort(folder: Path, **settings: Any) -> dict[str, Any]:
    with open_view(ViewConfig(folder=folder, port=0, **settings)) as found:
        answer: dict[str, Any] = ask(found, "/api/cohort").json
        return answer


def wait_for_all(opened: OpenedView, path: str) -> dict[str, Any]:
    for _ in range(200):
        found: dict[str, Any] = ask(opened, path).json
        if found["searched"] == found["slides"]:
            return found
        time.sleep(0.01)
    raise AssertionError("the index is never complete")


@pytest.mark.slow
def test_a_study_lists_label_prediction_and_results(opened: OpenedView) -> None:
    found = ask(opened, "/api/cohort").json
    assert [slide["id"] for slide in found["slides"]] == ["s1", "s2", "s3"]
    first = found["slides"][0]
    assert first["cells"] == {"patient_id": "P0", "label": "a"}
    assert (first["regions"], first["pixels"], first["targets"], first["decisions"]) == (6, True, ["a"], ["a"])
    assert first["outputs"] == [[0.91, 0.09]]  # the mean over repeats
    assert found["results"] == [{"name": "eval · slpd · abmil", "classes": ["a", "b"], "unit": "probability"}]
    assert (found["columns"], found["reports"]) == (["label", "patient_id"], ["eval/report.html"])


def test_reports_are_shown_without_scripts_and_lead_back_to_the_viewer(opened: OpenedView) -> None:
    answer = ask(opened, "/reports/eval/report.html")
    assert answer.body == b'<a href="/#slide=s1">zoom</a>'
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "script-src" not in answer.headers["content-security-policy"]  # default-src 'none'
    for path in (
        "/reports/../cohort.csv",
        "/reports/%2e%2e/cohort.csv",
        "/reports/cache/s1.h5",
        "/reports//etc/passwd",
    ):
        assert ask(opened, path).status == 404


def test_regions_have_their_values_whatever_the_order_of_the_files(opened: OpenedView) -> None:
    found = ask(opened, "/api/slides/s1").json
    assert (found["width"], found["height"], found["region_l0"]) == (WIDTH_L0, HEIGHT_L0, SIDE_L0)
    assert found["regions"] == [[0, 0], [256, 0], [512, 0], [768, 0], [0, 256], [256, 256]]
    assert found["prototypes"]["run"]["cluster"] == [0, 1, 0, 1, 0, 1]
    assert found["prototypes"]["run"]["sizes"] == [3, 3]
    assert [each["slide"] for each in found["prototypes"]["run"]["neighbours"]] == ["s2", "s3"]
    (attention,) = found["attention"]
    assert attention["values"] == pytest.approx([(n + 1) / 21 for n in range(6)])
    assert found["tissue"] == pytest.approx(np.linspace(0.25, 1, 6), abs=1e-3)


def test_the_tissue_layer_has_one_pixel_per_patch(opened: OpenedView) -> None:
    answer = ask(opened, "/api/slides/s1/tissue.png")
    assert answer.headers["x-box"] == f"0,0,{4 * SIDE_L0},{2 * SIDE_L0}"
    alpha = np.asarray(Image.open(io.BytesIO(answer.body)))[..., 3]
    assert alpha.shape == (8, 16)
    assert np.unique(alpha[:4, :4]).tolist() == [64]  # a quarter
    assert np.unique(alpha[4:, 8:]).tolist() == [0]  # no region there


def test_tiles_are_the_pixels_of_the_slide_at_every_level(opened: OpenedView, study: Path) -> None:
    found = ask(opened, "/api/slides/s1/pixels").json
    assert found == {"state": "ok", "width": WIDTH_L0, "height": HEIGHT_L0, "levels": 11}
    with Image.open(study.parent / "slides" / "s1.tif") as file:
        whole = np.asarray(file.convert("RGB"), np.float64)

    def tile(name: str) -> np.ndarray:
        answer = ask(opened, f"/api/slides/s1/tiles/{name}.jpg")
        assert (answer.status, answer.headers["content-type"]) == (200, "image/jpeg")
        return np.asarray(Image.open(io.BytesIO(answer.body)), np.float64)

    def apart(one: np.ndarray, other: np.ndarray) -> float:
        """Largest difference of the means of 32 x 32 px, which compression hardly changes."""
        blocks = [each.reshape(each.shape[0] // 32, 32, -1, 32, 3).mean(axis=(1, 3)) for each in (one, other)]
        return float(np.abs(blocks[0] - blocks[1]).max())

    finest, corner, half, least = tile("10/0_0"), tile("10/1_1"), tile("9/0_0"), tile("0/0_0")
    assert [each.shape[:2] for each in (finest, corner, half, least)] == [(512, 512), (256, 512), (384, 512), (1, 1)]
    assert apart(finest, whole[:512, :512]) < 3
    assert apart(corner, whole[512:, 512:]) < 3
    assert apart(half, whole.reshape(384, 2, 512, 2, 3).mean(axis=(1, 3))) < 3
    assert apart(finest, whole[1:513, 1:513]) > 3  # a shift by one pixel is noticed
    assert np.abs(least[0, 0] - whole.mean(axis=(0, 1))).max() < 6
    for outside in ("10/2_0", "10/0_2", "11/0_0", "99999/0_0", "10/99999999999999999999_0"):
        assert ask(opened, f"/api/slides/s1/tiles/{outside}.jpg").status == 404
    region = np.asarray(Image.open(io.BytesIO(ask(opened, "/api/slides/s1/regions/5.jpg?px=256").body)), np.float64)
    assert apart(region, whole[256:512, 256:512]) < 3


def test_nearest_regions_are_those_of_a_search_through_all(opened: OpenedView, study: Path) -> None:
    vectors = {slide: mean_tokens(TokenFile.open(study / "cache" / f"{slide}.h5")) for slide in REGIONS}
    units = {slide: each / np.linalg.norm(each, axis=1, keepdims=True) for slide, each in vectors.items()}
    cosines = [
        (float(units[slide][region] @ units["s1"][2]), slide, region)
        for slide in ("s2", "s3")
        for region in range(REGIONS[slide])
    ]
    found = wait_for_all(opened, "/api/slides/s1/regions/2/nearest")
    assert [(each["slide"], each["region"]) for each in found["regions"]] == [
        (slide, region) for _, slide, region in sorted(cosines, reverse=True)[:8]
    ]
    assert found["regions"][0]["cosine"] == pytest.approx(max(cosines)[0], abs=2e-3)
    assert (found["slides"], found["about"]) == (3, "mean tokens")
    assert ask(opened, "/api/slides/s1/regions/6/nearest").status == 404


def test_a_cache_alone_a_run_alone_and_an_evaluation_alone(study: Path, tmp_path: Path) -> None:
    for part in ("cache", "run", "eval"):
        shutil.copytree(study / part, tmp_path / part)
        with open_view(ViewConfig(folder=tmp_path / part, port=0)) as found:
            slides = ask(found, "/api/cohort").json["slides"]
            shown = ask(found, "/api/slides/s3").json
            pixels = ask(found, "/api/slides/s3/pixels").json
        assert [slide["id"] for slide in slides] == ["s1", "s2", "s3"]
        assert len(shown["regions"]) == 9
        assert found.cohort.notes == ()
        # Only the cache records the manifest and what identifies the slides.
        assert pixels["state"] == ("ok" if part == "cache" else "none")
        assert (bool(shown["prototypes"]), bool(shown["attention"])) == (part == "run", part == "eval")


def test_a_cache_that_results_were_made_from_is_named_but_not_read(study: Path, tmp_path: Path) -> None:
    run = shutil.copytree(study / "run", tmp_path / "run")
    (run / "recipe.toml").write_text(f'cache = "{study / "cache"}"\n', encoding="utf-8")
    with open_view(ViewConfig(folder=run, port=0)) as found:
        assert found.cohort.notes == (f"Without a token cache, layers are missing: pass --cache {study / 'cache'}.",)
        assert found.cohort.files == {}
    with open_view(ViewConfig(folder=run, port=0, cache=study / "cache")) as found:
        assert len(found.cohort.files) == 3


def test_without_slides_the_grid_remains(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study / "cache", tmp_path / "cache")
    gone = write_manifest(tmp_path / "gone.csv", [{"slide_id": "s1", "slide_path": "gone.tif"}])
    with open_view(ViewConfig(folder=tmp_path / "cache", port=0, manifest=gone)) as found:
        assert len(ask(found, "/api/slides/s1").json["regions"]) == 6
        for slide, said in (("s1", "gone.tif"), ("s2", "")):
            pixels = ask(found, f"/api/slides/{slide}/pixels").json
            assert pixels["state"] == "none"
            assert said in pixels["message"]


def test_damaged_slides_are_shown_as_such_and_cost_nobody_else(study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(study.parent, folder)
    cut = folder / "study" / "cache" / "s1.h5"
    cut.write_bytes(cut.read_bytes()[:-100])
    (folder / "slides" / "s2.tif").write_bytes(b"II*\0 not a slide")
    failed = [{"stage": "embed", "slide_id": "s4", "path": "s4.svs", "error": "Too dark.", "hint": "Scan again."}]
    write_manifest(folder / "study" / "cache" / "failures.csv", failed)
    settings = ViewConfig(folder=folder / "study", port=0, manifest=folder / "cohort.csv")
    with open_view(settings) as found:
        faults = {slide["id"]: slide.get("fault") for slide in ask(found, "/api/cohort").json["slides"]}
        assert "s1.h5" in faults["s1"]
        assert (faults["s2"], faults["s3"], faults["s4"]) == (None, None, "Too dark. Scan again.")
        assert len(ask(found, "/api/slides/s1").json["regions"]) == 6  # from scores.h5
        damaged = ask(found, "/api/slides/s2/pixels").json
        assert damaged["state"] == "damaged"
        assert "s2.tif" in damaged["message"]
        assert ask(found, "/api/slides/s2/tiles/10/0_0.jpg").status == 409
        assert ask(found, "/api/slides/s4").json["fault"] == "Too dark. Scan again."
        assert ask(found, "/api/slides/s3/pixels").json["state"] == "ok"


@pytest.mark.slow  # starts two processes
def test_a_slide_that_crashes_its_reader_does_not_end_the_server(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_view(ViewConfig(folder=study, port=0)) as found:
        assert ask(found, "/api/slides/s1/pixels").json["state"] == "ok"
        with monkeypatch.context() as patch:
            patch.setattr("slpd_toolkit.slides.guarded_slide.reading.square", abort_always)
            crashed = ask(found, "/api/slides/s1/regions/0.jpg")
        assert crashed.status == 409
        assert "crashed the process" in crashed.json["error"]
        assert ask(found, "/api/slides/s1/regions/0.jpg").status == 200


def test_a_file_that_was_replaced_is_not_shown_unless_it_is_named(study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(study.parent, folder)
    shutil.copy(folder / "slides" / "s2.tif", study.parent / "slides" / "other.tif")
    rows = [{"slide_id": "s1", "slide_path": study.parent / "slides" / "other.tif"}]
    other = write_manifest(tmp_path / "other.csv", rows)
    recipe = f'{{"manifest": "{other}"}}'
    tokens_of(folder / "study" / "cache" / "s1.h5", folder / "slides" / "s1.tif", 6, recipe=recipe)
    with open_view(ViewConfig(folder=folder / "study" / "cache", port=0)) as found:
        pixels = ask(found, "/api/slides/s1/pixels").json
        assert (pixels["state"], "not the file that was embedded" in pixels["message"]) == ("damaged", True)
    with open_view(ViewConfig(folder=folder / "study" / "cache", port=0, manifest=other)) as found:
        assert ask(found, "/api/slides/s1/pixels").json["state"] == "ok"


def test_a_thousand_slides_are_listed_without_opening_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    tokens_of(cache / "s0.h5", None, 2)
    content = (cache / "s0.h5").read_bytes()
    header = TokenFile.open(cache / "s0.h5").header
    for number in range(1, 1000):
        (cache / f"s{number}.h5").write_bytes(content)
    read = []

    def from_index(folder: Path, paths: list[Path]) -> list[Any]:
        from dataclasses import replace

        return [replace(header, meta=replace(header.meta, slide_id=path.stem)) for path in paths]

    monkeypatch.setattr(token_file, "read_headers", from_index)
    monkeypatch.setattr(TokenFile, "_read", lambda self, *_: read.append(self.path))
    assert len(cohort(cache)["slides"]) == 1000
    assert read == []


def test_what_cannot_be_shown_is_refused(study: Path, tmp_path: Path) -> None:
    for folder, said in ((tmp_path / "gone", "is not a folder"), (tmp_path, "contains no token cache")):
        with pytest.raises(UsageError, match=said):
            open_view(ViewConfig(folder=folder, port=0))
    with pytest.raises(UsageError, match="--slide: s9 is not among 3 slides"):
        open_view(ViewConfig(folder=study, port=0, slide="s9"))
    with pytest.raises(UsageError, match=r"--cache: .* contains no token files"):
        open_view(ViewConfig(folder=study, port=0, cache=study / "run"))
    with pytest.raises(UsageError, match="--port: got 70000"):
        ViewConfig(folder=study, port=70000)


def test_without_the_extra_it_says_how_to_install_it(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slpd_toolkit.commands.view.find_spec", lambda name: None if name == "uvicorn" else object())
    with pytest.raises(UsageError, match="needs uvicorn") as raised:
        open_view(ViewConfig(folder=study, port=0))
    assert "slpd-toolkit[view]" in raised.value.hint


def test_predictions_without_classes_and_of_new_slides(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study / "cache", tmp_path / "study" / "cache")
    survival = [{"model": "m", "aggregator": "a", "repeat": 0, "fold": 0, "slide_id": "s1", "time": 5, "risk": -2.5}]
    (tmp_path / "study" / "survival").mkdir()
    write_manifest(tmp_path / "study" / "survival" / "predictions.csv", survival)
    new = [{"slide_id": "s2", "decision": "b", "probability_a": 0.6, "probability_b": 0.4, "far_from_training": "yes"}]
    (tmp_path / "study" / "new").mkdir()
    write_manifest(tmp_path / "study" / "new" / "predictions.csv", new)
    found = cohort(tmp_path / "study")
    assert [(each["name"], each["unit"]) for each in found["results"]] == [
        ("new", "probability"),
        ("survival · m · a", "risk"),
    ]
    one, two, _ = found["slides"]
    assert (one["outputs"], one["decisions"]) == ([[], [-2.5]], ["", ""])
    assert (two["decisions"], two["far"]) == (["b", ""], [True, False])  # the decision of the file, by its threshold
    assert read_csv(tmp_path / "study" / "new" / "predictions.csv")
