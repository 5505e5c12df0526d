from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from slpd_toolkit.commands import embed, pretrain, represent, search
from slpd_toolkit.config.embed import EmbedConfig
from slpd_toolkit.config.represent import RepresentConfig
from slpd_toolkit.config.search import SearchConfig
from slpd_toolkit.core.errors import SlideError, UsageError
from slpd_toolkit.representations.run_prototypes import prototypes_of_file
from slpd_toolkit.representations.slide_index import SlideIndex
from slpd_toolkit.training.prototype_file import PrototypeFile
from tests.cohorts import read_csv, write_manifest
from tests.report.test_atlas import Page
from tests.slide_factory import tissue_on_glass, write_slide
from tests.token_factory import LENGTHS, write_cache
from tests.training.runs import tiny

if TYPE_CHECKING:
    from pathlib import Path

IDS = [f"slide{number:03}" for number in range(len(LENGTHS))]
HAVE = ["slide000", "slide002", "slide003", "slide004"]
"""Those with enough regions for prototypes."""


@pytest.fixture(scope="module")
def cache_of_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("search") / "cache", LENGTHS, grid=2)


@pytest.fixture(scope="module")
def run(cache_of_run: Path) -> Path:
    config = tiny(
        cache_of_run, cache_of_run.parent / "run <b>", epochs=1, prototype_epoch=0, global_side=2, local_side=1
    )
    pretrain.run(config)
    return config.out


@pytest.fixture(scope="module")
def manifest(cache_of_run: Path) -> Path:
    rows = [
        {"slide_id": slide, "slide_path": f"{slide}.tif", "patient_id": patient, "site": site}
        for slide, patient, site in zip(IDS, "ABACD", "xyyxy", strict=True)
    ]
    return write_manifest(cache_of_run.parent / "cohort.csv", rows)


def find(source: Path, query: str, out: Path, **more: Any) -> search.Found:
    return search.find(SearchConfig(source=source, query=query, out=out, device="cpu", **more))


@pytest.mark.slow
def test_a_slide_of_the_run_is_never_found_itself(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search.run(SearchConfig(source=run, query="slide002", out=tmp_path)) == 0
    said = capsys.readouterr()
    assert "Most similar to slide002" in said.out
    assert max(map(len, said.out.splitlines())) <= 80
    page = Page(tmp_path / "slide002.html")
    assert sorted(page.ids) == ["slide000", "slide003", "slide004"]
    assert "b" not in page.tags
    assert "Slides similar to slide002" in page.text


@pytest.mark.slow
def test_patients_and_sites_are_left_out(run: Path, manifest: Path, tmp_path: Path) -> None:
    def found(**more: Any) -> set[str]:
        return {match.slide_id for match in find(run, "slide002", tmp_path, manifest=manifest, **more).matches}

    assert found() == {"slide003", "slide004"}
    assert found(other_patients=False) == {"slide000", "slide003", "slide004"}
    assert found(other_sites=True) == {"slide003"}
    assert found(top=1) < {"slide003", "slide004"}
    with pytest.raises(UsageError, match="No slides to compare"):
        find(run, "slide000", tmp_path, manifest=_same_patient(manifest, tmp_path))


def _same_patient(manifest: Path, folder: Path) -> Path:
    return write_manifest(folder / "same.csv", [row | {"patient_id": "A"} for row in read_csv(manifest)])


@pytest.mark.slow
def test_weights_are_the_shares_of_regions(run: Path) -> None:
    file, index = PrototypeFile.read(run / "prototypes.h5"), SlideIndex.open(run)
    assert list(index.slide_ids) == HAVE
    for row in range(len(HAVE)):
        clusters = file.region_cluster[file.region_row == row]
        np.testing.assert_allclose(index.sets.weights[row], np.bincount(clusters, minlength=2) / len(clusters))


@pytest.mark.slow
def test_a_token_file_gets_the_prototypes_that_the_run_gave_its_slide(
    run: Path, cache_of_run: Path, tmp_path: Path
) -> None:
    sets, cluster, cosine, file = prototypes_of_file(run, cache_of_run / "slide003.h5", device="cpu", workers=1)
    known, of_run = SlideIndex.open(run).set_of("slide003"), PrototypeFile.read(run / "prototypes.h5")
    assert file.meta.slide_id == "slide003"
    np.testing.assert_allclose(np.bincount(cluster) / len(cluster), sets.weights[0])
    np.testing.assert_allclose(cosine, of_run.region_cosine[of_run.region_row == HAVE.index("slide003")], atol=1e-4)
    np.testing.assert_allclose((sets.vectors[0] @ known.vectors[0].T).max(axis=1), 1, atol=1e-4)
    np.testing.assert_allclose(np.sort(sets.weights[0]), np.sort(known.weights[0]))
    by_file = find(run, str(cache_of_run / "slide003.h5"), tmp_path)
    by_id = find(run, "slide003", tmp_path)
    assert [match.slide_id for match in by_file.matches] == [match.slide_id for match in by_id.matches]
    assert by_file.query == "slide003"


@pytest.mark.slow
def test_a_slide_without_prototypes_is_found_by_its_token_file(run: Path, cache_of_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="slide001 is neither a slide with prototypes nor a file"):
        find(run, "slide001", tmp_path)
    assert len(find(run, str(cache_of_run / "slide001.h5"), tmp_path).matches) == 4


def test_vectors_are_searched_as_well(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "means.parquet"
    made = represent.make(RepresentConfig(model="mean-tokens", cache=cache, out=out, device="cpu"))
    found = find(out, "slide000", tmp_path / "page").matches
    unit = made.bags.features / np.linalg.norm(made.bags.features, axis=1, keepdims=True)
    cosines = unit @ unit[0]
    assert [match.row for match in found] == np.argsort(-cosines)[1:].tolist()
    np.testing.assert_allclose([match.similarity for match in found], np.sort(cosines)[::-1][1:], atol=1e-5)
    with pytest.raises(UsageError, match="can only be searched for in a run folder"):
        find(out, str(cache / "slide000.h5"), tmp_path)


@pytest.mark.slow
def test_pictures_of_matched_regions_stand_side_by_side(run: Path, manifest: Path, tmp_path: Path) -> None:
    for name in ("slide002", "slide003"):
        picture = tissue_on_glass(4096, 1024, [(0, 0, 4096, 1024)], mpp=0.5, seed=1)
        write_slide(tmp_path / f"{name}.tif", picture, mpp=0.5, downsamples=(4,), compression="jpeg")
    code = search.run(
        SearchConfig(source=run, query="slide002", out=tmp_path / "page", manifest=manifest, slides_root=tmp_path)
    )
    page = Page(tmp_path / "page" / "slide002.html")
    assert code == 0
    assert {name.rpartition("-")[0] for name in page.pictures} == {"slide002", "slide003"}
    assert all((tmp_path / "page" / name).exists() for name in page.pictures)


@pytest.mark.slow
def test_regions_of_a_new_slide_are_shown_beside_those_that_they_match(
    run: Path, cache_of_run: Path, manifest: Path, tmp_path: Path
) -> None:
    picture = tissue_on_glass(4096, 1024, [(0, 0, 4096, 1024)], mpp=0.5, seed=1)
    write_slide(tmp_path / "slide001.tif", picture, mpp=0.5, downsamples=(4,), compression="jpeg")
    query = str(cache_of_run / "slide001.h5")
    find(run, query, tmp_path / "page", manifest=manifest, slides_root=tmp_path)
    found = prototypes_of_file(run, cache_of_run / "slide001.h5", device="cpu", workers=1)
    assert "among slides of other patients" in (tmp_path / "page" / "slide001.html").read_text()
    pictures = set(Page(tmp_path / "page" / "slide001.html").pictures)
    assert {f"slide001-{k + 1}.jpg" for k in range(len(found.sets.weights[0]))} <= pictures


def test_a_run_without_its_head_says_so(run: Path, cache_of_run: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    shutil.copy(run / "prototypes.h5", tmp_path / "copy")
    with pytest.raises(UsageError, match=r"last\.pt does not exist; the teacher's head is needed"):
        find(tmp_path / "copy", str(cache_of_run / "slide001.h5"), tmp_path)
    with pytest.raises(UsageError, match="--other-sites: got on, allowed: only with --manifest"):
        find(run, "slide000", tmp_path, other_sites=True)


@pytest.mark.slow
def test_a_raw_slide_is_embedded_as_the_slides_of_the_run_were(tmp_path: Path) -> None:
    rows = [{"slide_id": f"s{number}", "slide_path": f"s{number}.tif"} for number in range(3)]
    table = write_manifest(tmp_path / "slides.csv", rows)
    for number in range(3):
        picture = tissue_on_glass(480, 480, [(20, 20, 480, 480)], mpp=1.0, seed=number)
        write_slide(tmp_path / f"s{number}.tif", picture, mpp=1.0, downsamples=(2,), compression="jpeg")
    made = EmbedConfig(
        manifest=table,
        out=tmp_path / "cache",
        encoder=("handcrafted",),
        mpp=1.0,
        region_px=128,
        patch_px=32,
        device="cpu",
        qc=False,
    )
    assert embed.run(made) == 0
    trained = tiny(tmp_path / "cache", tmp_path / "run", epochs=1, prototype_epoch=0, global_side=3, local_side=2)
    pretrain.run(trained)
    by_id = find(trained.out, "s1", tmp_path / "page")
    by_slide = find(trained.out, str(tmp_path / "s1.tif"), tmp_path / "page")
    assert (by_slide.query, [m.slide_id for m in by_slide.matches]) == ("s1", [m.slide_id for m in by_id.matches])
    np.testing.assert_allclose(
        [match.similarity for match in by_slide.matches], [match.similarity for match in by_id.matches], atol=1e-3
    )
    assert "s1-1.jpg" in Page(tmp_path / "page" / "s1.html").pictures
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    with pytest.raises(SlideError, match=r"broken\.tif"):
        find(trained.out, str(tmp_path / "broken.tif"), tmp_path / "page")
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(UsageError, match=r"token cache .* no longer exists"):
        find(trained.out, str(tmp_path / "s1.tif"), tmp_path / "page")
