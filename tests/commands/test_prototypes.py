"""`slpd prototypes`: the table and the atlas of a finished run."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image

from slpd_toolkit.commands import import_features, pretrain, prototypes
from slpd_toolkit.config.import_features import ImportConfig
from slpd_toolkit.config.prototypes import PrototypesConfig
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.training.prototype_file import PrototypeFile
from tests.cohorts import read_csv
from tests.foreign.factory import features_of, lattice_of, write_stamp
from tests.report.test_atlas import Page
from tests.token_factory import LENGTHS, write_cache
from tests.training.runs import tiny

if TYPE_CHECKING:
    from pathlib import Path

REGION_PX = 2 * 256
SIDES = {"global_side": 2, "local_side": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose name contains markup."""
    folder = tmp_path_factory.mktemp("atlas")
    cache = write_cache(folder / "cache", LENGTHS, grid=2)
    config = tiny(cache, folder / "run <b> & co", epochs=1, prototype_epoch=0, neighbours=2, **SIDES)
    pretrain.run(config)
    return config.out


def show(run: Path, tmp_path: Path, **changes: Any) -> tuple[int, Page]:
    code = prototypes.run(PrototypesConfig(run=run, out=tmp_path / "atlas", **changes))
    return code, Page(tmp_path / "atlas" / "index.html")


@pytest.mark.slow
def test_table_and_atlas_without_slides(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, page = show(run, tmp_path)
    assert code == 0
    said = capsys.readouterr()
    assert "4 slides with 2 prototypes each, after 3 steps" in " ".join(said.out.split())
    assert "With --manifest" in said.err
    assert page.ids == ["slide000", "slide003", "slide002", "slide004"]  # most regions first
    assert len(page.squares) == 9 + 7 + 6 + 5
    assert page.pictures == []
    assert len(page.links) == 8
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert "run <b> & co: slide prototypes" in page.text
    assert "b" not in page.tags


@pytest.mark.slow
def test_slides_beyond_the_limit_are_named_but_not_linked(run: Path, tmp_path: Path) -> None:
    _, page = show(run, tmp_path, limit=1)
    assert page.ids == ["slide000"]
    assert page.links == []
    assert "Showing 1 of 4 slides" in page.text


def picture(index: int) -> tuple[int, int, int]:
    """Return the color of a region, unique for each."""
    return (40 + 20 * index, 200 - 15 * index, 60 + 60 * (index % 3))


def write_slide(path: Path) -> None:
    """Write a slide with nine regions in rows of eight, each of one color, at 0.5 um/px."""
    rgb = np.full((2 * REGION_PX, 8 * REGION_PX, 3), 240, np.uint8)
    for index in range(9):
        row, column = divmod(index, 8)
        square = np.s_[row * REGION_PX : (row + 1) * REGION_PX, column * REGION_PX : (column + 1) * REGION_PX]
        rgb[square] = picture(index)
    tifffile.imwrite(path, rgb, tile=(256, 256), photometric="rgb", compression="deflate")


@pytest.mark.slow
def test_thumbnails_are_the_regions_nearest_to_each_centre(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first file is a slide, the second is not, and the other slides are not in the manifest."""
    write_slide(tmp_path / "one.tiff")
    (tmp_path / "two.tiff").write_bytes(b"no slide")
    (tmp_path / "m.csv").write_text("slide_id,slide_path,mpp\nslide000,one.tiff,0.5\nslide003,two.tiff,0.5\n")
    code, page = show(run, tmp_path, manifest=tmp_path / "m.csv", nearest=2)
    assert code == 1
    assert len(page.pictures) == 2
    failures = {row["slide_id"]: row["error"] for row in read_csv(tmp_path / "atlas" / "failures.csv")}
    assert "is not a slide" in failures.pop("slide003")
    absent = "the manifest has no usable row for it."
    assert failures == {"slide002": absent, "slide004": absent}
    said = " ".join(capsys.readouterr().err.split())
    assert "m.csv has no usable row for 2 of 4 slides: slide002, slide004." in said
    assert "3 slides are shown without pixels" in said
    file = PrototypeFile.read(run / "prototypes.h5")
    for k, source in enumerate(page.pictures):
        with Image.open(tmp_path / "atlas" / unquote(source)) as strip:
            width, height = strip.size
            pixels = np.asarray(strip).astype(int)
        members = np.flatnonzero((file.region_row == 0) & (file.region_cluster == k))
        nearest = members[np.argsort(-file.region_cosine[members])][:2]
        assert (width, height) == (160 * len(nearest) + 4 * (len(nearest) - 1), 160)
        for place, region in enumerate(nearest):
            assert np.abs(pixels[80, 164 * place + 80] - picture(int(region))).max() < 12


@pytest.mark.slow
def test_pixels_are_not_read_where_coordinates_are_not_the_slide_s(run: Path, tmp_path: Path) -> None:
    """Without the slide's resolution, STAMP's coordinates are in px of another size and refer to other positions."""
    write_slide(tmp_path / "one.tiff")
    (tmp_path / "m.csv").write_text("slide_id,slide_path,mpp\nslide000,one.tiff,0.5\n")
    file = PrototypeFile.read(run / "prototypes.h5")
    replace(file, located=file.slide_ids != "slide000").write(tmp_path / "prototypes.h5")
    code, page = show(tmp_path, tmp_path, manifest=tmp_path / "m.csv", limit=1)
    assert (code, page.pictures, page.ids) == (1, [], ["slide000"])
    (failure,) = read_csv(tmp_path / "atlas" / "failures.csv")
    assert "imported without resolution or coordinates" in failure["error"]
    assert "an mpp column" in failure["hint"]


@pytest.mark.slow
@pytest.mark.parametrize(("mpp", "located"), [(None, False), (0.5, True)])
def test_a_run_on_imported_features_knows_whether_coordinates_are_the_slide_s(
    tmp_path: Path, mpp: float | None, located: bool
) -> None:
    for index in range(3):
        write_stamp(
            tmp_path / "uni" / f"s{index}.h5",
            features_of(64, 8, seed=index),
            lattice_of(8, 8, 128.0),
            tile_size_um=128.0,
            tile_size_px=256,
            unit="um",
        )
    import_features.run(ImportConfig(source=tmp_path / "uni", out=tmp_path / "cache", region_px=512, mpp=mpp))
    settings: dict[str, Any] = {"batch_size": 4, "neighbours": 1, "min_regions": 4, "clusters": 2}
    config = tiny(tmp_path / "cache", tmp_path / "run", epochs=1, prototype_epoch=0, **SIDES, **settings)
    assert pretrain.run(config) == 0
    assert PrototypeFile.read(config.out / "prototypes.h5").located.tolist() == [located] * 3


@pytest.mark.slow
def test_prototype_files_of_before_hold_slides_that_can_be_located(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "prototypes.h5", tmp_path)
    with h5py.File(tmp_path / "prototypes.h5", "a") as file:
        del file["located"], file.attrs["digest"]
    assert PrototypeFile.read(tmp_path / "prototypes.h5").located.tolist() == [True] * 4


def test_a_run_without_prototypes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"prototypes\.h5 does not exist.*`slpd pretrain` writes it"):
        prototypes.run(PrototypesConfig(run=tmp_path))


def test_a_slide_with_an_empty_cluster_and_more_clusters_than_colours(run: Path, tmp_path: Path) -> None:
    file = PrototypeFile.read(run / "prototypes.h5")
    unit = np.tile(file.prototypes[:, :1], (1, 10, 1))
    counterpart = np.zeros((4, 10, 2), np.int64)
    changed = vars(file) | {"prototypes": unit, "counterpart": counterpart}
    PrototypeFile(**changed).write(tmp_path / "prototypes.h5")
    code, page = show(tmp_path, tmp_path)
    assert code == 0
    assert page.text.count("0 regions") >= 4 * 8
    assert "nan" not in page.text
    assert len(list(itertools.chain(page.squares))) == 27
