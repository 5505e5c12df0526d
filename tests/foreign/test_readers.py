"""Each reader on files made from its tool's layout: what is found, what is assumed, what is refused."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import torch

from slpd_toolkit.core.errors import SlideError, UsageError
from slpd_toolkit.foreign.detect import find, format_of
from slpd_toolkit.foreign.features import MissingSettingError, Settings, known, nominal_mpp
from slpd_toolkit.foreign.format import SourceSlide, load
from slpd_toolkit.foreign.formats import trident
from slpd_toolkit.foreign.rows import open_h5, open_rows
from tests.foreign.factory import (
    features_of,
    lattice_of,
    write_atlas_patch,
    write_clam,
    write_slide2vec,
    write_stamp,
    write_trident,
)

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from slpd_toolkit.foreign.features import SlideFeatures

COORDS, FEATURES = lattice_of(6, 5, 512), features_of(30)
ENCODER = Settings(encoder="resnet50", mpp=0.25)


def read(folder: Path, tool: str | None = None, settings: Settings | None = None) -> SlideFeatures:
    chosen, found = find(folder, tool)
    return load(chosen).read(found[0], settings or Settings())


def rows(slide: SlideFeatures) -> npt.NDArray[Any]:
    return slide.features.take(np.arange(slide.features.shape[0]))


def test_trident(tmp_path: Path) -> None:
    write_trident(tmp_path / "features_uni_v1" / "a.h5", FEATURES, COORDS)
    slide = read(tmp_path / "features_uni_v1")
    assert (slide.slide_id, slide.tool, slide.encoder) == ("a", "trident", "uni_v1")
    assert (slide.patch_l0, slide.steps_l0, slide.patch_px) == (512, (512,), 256)
    assert (slide.mpp_l0, slide.target_mpp, slide.effective_mpp) == (0.25, 0.5, 0.5)
    assert slide.size_l0 == (100_000, 80_000)
    assert "from the magnification 40x" in slide.notes[0]
    assert (slide.coords_l0 == COORDS).all()
    assert (rows(slide) == FEATURES).all()


def test_atlas_patch(tmp_path: Path) -> None:
    write_atlas_patch(tmp_path / "patches" / "a.h5", COORDS, {"uni_v1": FEATURES, "conch_v15": features_of(7)})
    slide = read(tmp_path / "patches")
    assert (slide.slide_id, slide.tool, slide.encoder) == ("a", "atlas-patch", "uni_v1")
    assert (slide.patch_l0, slide.steps_l0, slide.patch_px) == (512, (512,), 256)
    assert (slide.mpp_l0, slide.target_mpp, slide.size_l0) == (0.25, 0.5, (100_000, 80_000))
    assert (slide.coords_l0 == COORDS).all()
    assert (rows(slide) == FEATURES).all()


def test_atlas_patch_with_several_encoders_needs_the_name_of_one(tmp_path: Path) -> None:
    other = features_of(30, width=5, seed=1)
    write_atlas_patch(tmp_path / "patches" / "a.h5", COORDS, {"uni_v1": FEATURES, "virchow_v1": other})
    with pytest.raises(MissingSettingError, match="not the features of one encoder; found uni_v1, virchow_v1"):
        read(tmp_path / "patches")
    slide = read(tmp_path / "patches", settings=Settings(encoder="virchow_v1"))
    assert (rows(slide) == other).all()
    with pytest.raises(MissingSettingError, match="no complete features of midnight"):
        read(tmp_path / "patches", settings=Settings(encoder="midnight"))
    write_atlas_patch(tmp_path / "bare" / "a.h5", COORDS, {})
    with pytest.raises(MissingSettingError, match="found none"):
        read(tmp_path / "bare")


@pytest.mark.parametrize("overlap", [256, 300])
def test_an_overlap_is_less_than_a_patch_in_one_reading_at_least(tmp_path: Path, overlap: int) -> None:
    write_trident(tmp_path / "features_uni_v1" / "a.h5", FEATURES, COORDS, overlap=overlap)
    assert read(tmp_path / "features_uni_v1").steps_l0 == (512 - overlap,)  # in level-0 px, where a side is 512


@pytest.mark.parametrize(
    ("overlap", "said"),
    [(600, "overlap by 600"), ("much", "'much'"), (-64, "-64"), (np.array([0, 1]), r"\[0, 1\]")],
)
def test_an_overlap_that_cannot_be(tmp_path: Path, overlap: object, said: str) -> None:
    write_trident(tmp_path / "features_uni_v1" / "a.h5", FEATURES, COORDS, overlap=overlap)
    with pytest.raises(SlideError, match=said):
        read(tmp_path / "features_uni_v1")


def test_a_number_may_be_stored_as_an_array_of_one(tmp_path: Path) -> None:
    attributes: dict[str, Any] = {"patch_size": np.array([256]), "overlap": np.array([0])}
    write_trident(tmp_path / "features_uni_v1" / "a.h5", FEATURES, COORDS, **attributes)
    slide = read(tmp_path / "features_uni_v1")
    assert (slide.patch_px, slide.steps_l0) == (256, (512,))


def test_trident_with_a_known_resolution_says_what_was_really_read(tmp_path: Path) -> None:
    write_trident(tmp_path / "features_uni_v1" / "a.h5", FEATURES, COORDS)
    slide = read(tmp_path / "features_uni_v1", settings=Settings(mpp_l0=0.2526, mpp=0.3))
    assert (slide.mpp_l0, slide.target_mpp, slide.notes) == (0.2526, 0.5, ())
    assert slide.effective_mpp == pytest.approx(0.5052)


def test_trident_s_overlap_is_in_the_patch_s_px_or_in_level_0_s(tmp_path: Path) -> None:
    write_trident(tmp_path / "features_uni_v1" / "a.h5", FEATURES, COORDS, overlap=64)
    assert read(tmp_path / "features_uni_v1").steps_l0 == (384, 448)


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"level0_magnification": "None"}, "neither the resolution of the slide nor its magnification"),
        ({"target_magnification": "None"}, "lack patch_size, patch_size_level0 or target_magnification"),
        ({"patch_size": "None"}, "lack patch_size"),
    ],
)
def test_the_word_none_is_nothing(tmp_path: Path, attributes: dict[str, Any], said: str) -> None:
    write_trident(tmp_path / "features_uni_v1" / "a.h5", FEATURES, COORDS, **attributes)
    with pytest.raises(MissingSettingError, match=said):
        read(tmp_path / "features_uni_v1")


def test_an_attribute_that_is_no_number(tmp_path: Path) -> None:
    write_trident(tmp_path / "features_uni_v1" / "a.h5", FEATURES, COORDS, patch_size="big")
    with pytest.raises(SlideError, match="attribute patch_size is 'big', allowed: a number above 0"):
        read(tmp_path / "features_uni_v1")


@pytest.mark.parametrize("name", ["features_None", "features_", "uni_v1"])
def test_trident_s_encoder_is_the_folder_s_name_or_the_user_s(tmp_path: Path, name: str) -> None:
    write_trident(tmp_path / name / "a.h5", FEATURES, COORDS)
    with pytest.raises(MissingSettingError, match="TRIDENT does not record which encoder") as caught:
        read(tmp_path / name)
    assert "--encoder-name" in caught.value.hint
    assert read(tmp_path / name, settings=Settings(encoder="uni_v1")).encoder == "uni_v1"


def test_clam(tmp_path: Path) -> None:
    folder = write_clam(tmp_path, "a", FEATURES, COORDS, downsample=(2.0, 2.00011))
    settings = Settings(encoder="resnet50", mpp=0.2526, coords=tmp_path / "results/patches")
    slide = read(folder, settings=settings)
    assert (slide.tool, slide.encoder, slide.patch_px, slide.patch_l0) == ("clam", "resnet50", 256, 512)
    assert (slide.mpp_l0, slide.target_mpp, slide.size_l0) == (0.2526, 0.5, (180_000, 180_010))
    assert slide.effective_mpp == pytest.approx(0.5052)
    assert (rows(slide) == FEATURES).all()
    assert (slide.coords_l0 == COORDS).all()
    assert read(tmp_path / "feat", settings=settings).files == slide.files  # the folder above is found through


@pytest.mark.parametrize(("without", "said"), [("coords", "--coords"), ("mpp", "--mpp"), ("encoder", "--encoder-name")])
def test_what_clam_does_not_say_the_user_must(tmp_path: Path, without: str, said: str) -> None:
    folder = write_clam(tmp_path, "a", FEATURES, COORDS)
    given: dict[str, Any] = {"encoder": "resnet50", "mpp": 0.25, "coords": tmp_path / "results/patches"}
    with pytest.raises(MissingSettingError) as caught:
        read(folder, settings=Settings(**{name: value for name, value in given.items() if name != without}))
    assert said in caught.value.hint


def test_a_slide_of_clam_s_without_its_patches(tmp_path: Path) -> None:
    folder = write_clam(tmp_path, "a", FEATURES, COORDS)
    with pytest.raises(SlideError, match=r"a\.h5 does not exist") as caught:
        read(folder, settings=Settings(encoder="e", mpp=0.25, coords=tmp_path))
    assert "patches/" in caught.value.hint


@pytest.mark.parametrize(
    "attributes", [{"tile_size_um": 256.0, "tile_size_px": 224, "unit": "um"}, {"tile_size": 256.0, "unit": "um"}]
)
def test_stamp_in_micrometres(tmp_path: Path, attributes: dict[str, object]) -> None:
    coords_um = lattice_of(6, 5, 256.0)
    write_stamp(tmp_path / "a.h5", FEATURES, coords_um, **attributes)
    slide = read(tmp_path, settings=Settings(mpp=0.25))
    assert (slide.tool, slide.encoder, slide.patch_px, slide.patch_l0) == ("stamp", "uni-0123abcd", 224, 1024)
    assert (slide.coords_l0 == coords_um * 4).all()
    assert (slide.mpp_l0, slide.notes) == (0.25, ())
    assert slide.target_mpp == slide.effective_mpp == pytest.approx(256 / 224)
    unplaced = read(tmp_path)
    assert unplaced.patch_l0 == pytest.approx(224)
    assert unplaced.effective_mpp == pytest.approx(256 / 224)
    assert "resolution of the slide is unknown" in unplaced.notes[0]


@pytest.mark.parametrize(
    ("settings", "side_um", "mpp_l0"),
    [
        (Settings(), 256, 256 / 224),
        (Settings(target_mpp=2), 448, 2),
        (Settings(mpp=2), 448, 2),
        (Settings(target_mpp=2, mpp_l0=0.5), 448, 0.5),
    ],
)
def test_stamp_s_oldest_files(tmp_path: Path, settings: Settings, side_um: float, mpp_l0: float) -> None:
    coords = lattice_of(6, 5, 224)
    write_stamp(tmp_path / "a.h5", FEATURES, coords)
    slide = read(tmp_path, settings=settings)
    assert slide.patch_l0 * slide.mpp_l0 == pytest.approx(side_um)
    assert slide.mpp_l0 == pytest.approx(mpp_l0)
    assert slide.effective_mpp == pytest.approx(side_um / 224)
    assert np.allclose(slide.coords_l0, coords / 224 * slide.patch_l0)
    assert any("as in STAMP" in note for note in slide.notes) == (side_um == 256)


def test_tiles_of_stamp_s_oldest_files_may_jitter(tmp_path: Path) -> None:
    coords = lattice_of(6, 5, 224) + np.random.default_rng(2).uniform(0, 2, (30, 2))
    write_stamp(tmp_path / "uni" / "a.h5", FEATURES, coords)
    slide = read(tmp_path / "uni")
    assert slide.patch_px == 224
    assert slide.patch_l0 == pytest.approx(224)


def test_stamp_files_that_fit_no_version(tmp_path: Path) -> None:
    write_stamp(tmp_path / "a.h5", FEATURES, lattice_of(6, 5, 300))
    with pytest.raises(MissingSettingError, match="tiles are 300 apart"):
        read(tmp_path)


def test_stamp_s_augmented_copies_are_known(tmp_path: Path) -> None:
    write_stamp(tmp_path / "a.h5", FEATURES, lattice_of(6, 5, 224))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["augmented"] = np.arange(30) >= 20
    slide = read(tmp_path)
    assert slide.usable is not None
    assert slide.usable.sum() == 20


@pytest.mark.parametrize("suffix", [".pt", ".npz"])
def test_slide2vec(tmp_path: Path, suffix: str) -> None:
    features, corners = features_of(3 * 16).reshape(3, 16, 8), np.array([[0, 0], [5001, 7], [1024, 2048]])
    about: dict[str, object] = {
        "slide": {"dimensions": [9000, 8000], "base_spacing_um": 0.2526},
        "tiling": {"tile_size_lv0": 2028, "requested_tile_size_px": 1024},
    }
    folder = write_slide2vec(tmp_path, "a", features, corners, suffix=suffix, about=about)
    slide = read(folder)
    assert (slide.tool, slide.encoder, slide.grid, slide.patch_px) == ("slide2vec", "virchow2", 4, 256)
    assert (slide.patch_l0, slide.mpp_l0, slide.target_mpp, slide.size_l0) == (507, 0.2526, 0.5, (9000, 8000))
    assert (slide.coords_l0 == corners).all()
    assert (rows(slide) == features.reshape(48, 8)).all()


def test_slide2vec_without_a_word_about_the_slide(tmp_path: Path) -> None:
    folder = write_slide2vec(tmp_path, "a", features_of(16).reshape(1, 16, 8), np.zeros((1, 2)))
    with pytest.raises(MissingSettingError, match="resolution of the slide at level 0"):
        read(folder)
    assert read(folder, settings=Settings(mpp=0.25)).patch_l0 == 512
    folder = write_slide2vec(tmp_path, "a", features_of(16).reshape(1, 16, 8), np.zeros((1, 2)), meta={})
    with pytest.raises(MissingSettingError, match="requested_tile_size_px"):
        read(folder, settings=Settings(mpp=0.25, encoder="e"))
    known_now = read(folder, settings=Settings(mpp=0.25, encoder="e", region_px=1024, target_mpp=0.5))
    assert (known_now.patch_px, known_now.patch_l0) == (256, 512)


def save(path: Path, values: npt.NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torch.from_numpy(np.ascontiguousarray(values)), path)


HIPT = Settings(encoder="hipt", mpp=0.25)


@pytest.mark.parametrize("turned", [False, True])
def test_hipt_a_file_a_region(tmp_path: Path, turned: bool) -> None:
    tokens = features_of(3 * 256, 100).reshape(3, 256, 100)
    for index, (x, y) in enumerate([(8192, 0), (0, 0), (0, 16384)]):
        region = tokens[index].reshape(16, 16, 100).transpose(2, 0, 1) if turned else tokens[index]
        save(tmp_path / f"slide_A_{x}_{y}.pt", region)
    slide = read(tmp_path, settings=HIPT)
    assert (slide.slide_id, slide.tool, slide.grid, slide.patch_px) == ("slide_A", "hipt", 16, 256)
    assert (slide.patch_l0, slide.target_mpp) == (512, 0.5)
    assert sorted(slide.coords_l0.tolist()) == [[0, 0], [0, 16384], [8192, 0]]
    for region, corner in enumerate(slide.coords_l0.tolist()):
        wanted = [[8192, 0], [0, 0], [0, 16384]].index(corner)
        assert (slide.features.take(np.arange(region * 256, region * 256 + 256)) == tokens[wanted]).all()
    with pytest.raises(MissingSettingError, match="resolution of the slide at level 0"):
        read(tmp_path, settings=Settings(encoder="hipt"))


def test_hipt_a_file_a_slide(tmp_path: Path) -> None:
    tokens = features_of(2 * 256).reshape(2, 256, 8)
    save(tmp_path / "a_1_2.pt", tokens)
    slide = read(tmp_path, settings=Settings(encoder="hipt"))
    assert (slide.slide_id, slide.coords_l0.tolist()) == ("a_1_2", [[0, 0], [4096, 0]])
    assert "they are arranged in a row" in slide.notes[0]
    assert (rows(slide) == tokens.reshape(512, 8)).all()
    np.savez(tmp_path / "a_1_2.coordinates.npz", x=[100, 9000], y=[5, 6])
    slide = read(tmp_path, settings=Settings(encoder="hipt", mpp=0.25, coords=tmp_path))
    assert (slide.coords_l0.tolist(), slide.patch_l0, slide.notes) == ([[100, 5], [9000, 6]], 512, ())


def test_hipt_regions_that_are_only_numbered(tmp_path: Path) -> None:
    tokens = features_of(11 * 256).reshape(11, 256, 8)
    for index in range(11):
        save(tmp_path / f"slide_{index}.pt", tokens[index])
    with pytest.raises(UsageError, match="one region, as in HIPT, or all patches of a slide") as caught:
        read(tmp_path, settings=Settings(encoder="hipt"))
    assert "`slpd import hipt DIR`" in caught.value.hint
    slide = read(tmp_path, "hipt", Settings(encoder="hipt"))
    assert slide.coords_l0[:, 0].tolist() == [4096 * index for index in range(11)]
    assert (slide.features.take(np.arange(2560, 2816)) == tokens[10]).all()


@pytest.mark.parametrize("regions", [7, 16, 64, 256])
@pytest.mark.parametrize("name", ["a", "TCGA-AA-0001-01Z-00-DX1", "slide_3"])
def test_region_embeddings_are_no_tokens(tmp_path: Path, regions: int, name: str) -> None:
    save(tmp_path / f"{name}.pt", features_of(regions, 192))
    with pytest.raises(SlideError, match=rf"\({regions}, 192\): embeddings of {regions} regions") as caught:
        read(tmp_path, settings=HIPT)
    assert "<slide>_<x>_<y>.pt" in caught.value.hint


def test_a_square_number_of_region_embeddings_groups_no_files(tmp_path: Path) -> None:
    for number, regions in enumerate((64, 50, 81)):
        save(tmp_path / f"case_{number}.pt", features_of(regions, 192))
    assert [found.slide_id for found in find(tmp_path, "hipt")[1]] == ["case_0", "case_1", "case_2"]


BAGS = [
    ("features", {"A": (256, 8), "B": (340, 8), "C": (1024, 8)}),
    ("features", {"A": (256, 8), "B": (1024, 8)}),  # all square: the numbers of patches still differ
    ("features", {"case_0": (256, 8), "case_1": (144, 8)}),
    ("features", {"A": (1, 256, 8), "B": (1, 100, 8)}),
    ("features", {"s_1_2": (340, 8), "s_3_4": (256, 8), "s_5_6": (77, 8)}),  # slides named as regions are
    ("features", {"A": (340, 8)}),
    ("pt_files", {"A": (256, 8)}),
    ("pt_files", {"A": (256, 8), "B": (256, 8)}),
    ("pt_files", {"s_1_2": (256, 8)}),
]


@pytest.mark.parametrize("tool", [None, "hipt"])
@pytest.mark.parametrize(("name", "bags"), BAGS)
def test_bags_without_coordinates_are_no_regions(
    tmp_path: Path, name: str, bags: dict[str, tuple[int, ...]], tool: str | None
) -> None:
    for slide, shape in bags.items():
        save(tmp_path / name / f"{slide}.pt", np.zeros(shape, "f4"))
    with pytest.raises(
        UsageError, match=r"all patches of a slide without coordinates, as in CLAM's pt_files"
    ) as caught:
        find(tmp_path / name, tool)
    assert "h5_files/" in caught.value.hint


@pytest.mark.parametrize("place", ["", "pt_files"])
def test_bags_where_features_are_looked_for(tmp_path: Path, place: str) -> None:
    save(tmp_path / "pt_files" / "A.pt", np.zeros((340, 8), "f4"))
    with pytest.raises(UsageError, match="without coordinates"):
        find(tmp_path / place, "clam")


def test_a_region_whose_size_differs_fails_alone(tmp_path: Path) -> None:
    for slide, regions in {"a_0_0": 256, "a_4096_0": 256, "b_0_0": 256, "b_4096_0": 100}.items():
        save(tmp_path / f"{slide}.pt", features_of(regions, 8))
    assert [found.slide_id for found in find(tmp_path, None)[1]] == ["a", "b"]


def test_a_slide_of_one_region_is_told_by_its_coordinates(tmp_path: Path) -> None:
    save(tmp_path / "a.pt", np.zeros((1, 256, 8), "f4"))
    with pytest.raises(UsageError, match="one region, as in HIPT, or all patches of a slide"):
        find(tmp_path, None)
    (tmp_path / "coordinates").mkdir()
    np.savez(tmp_path / "coordinates/a.coordinates.npz", x=[100], y=[5])
    assert read(tmp_path, settings=HIPT).coords_l0.tolist() == [[100, 5]]


def test_tokens_as_wide_as_region_embeddings_are_told_by_their_place(tmp_path: Path) -> None:
    tokens = features_of(256, 192)
    save(tmp_path / "slide_A_4096_8192.pt", tokens)
    slide = read(tmp_path, settings=HIPT)
    assert (slide.grid, slide.coords_l0.tolist()) == (16, [[4096, 8192]])
    assert (rows(slide) == tokens).all()


def test_code_in_a_tensor_file_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save(Evil(), tmp_path / "a.pt")
    with pytest.raises((SlideError, UsageError), match=r"more than a tensor \(it refers to _?io\.open\)"):
        read(tmp_path, settings=HIPT)
    assert not (tmp_path / "ran").exists()


def test_tools_are_told_by_content(tmp_path: Path) -> None:
    assert format_of(write_trident(tmp_path / "t.h5", FEATURES, COORDS)) == "trident"
    assert format_of(write_clam(tmp_path, "c", FEATURES, COORDS) / "c.h5") == "clam"
    assert format_of(write_stamp(tmp_path / "s.h5", FEATURES, COORDS)) == "stamp"
    folder = write_slide2vec(tmp_path, "v", features_of(16).reshape(1, 16, 8), np.zeros((1, 2)))
    assert format_of(folder / "v.pt") == "slide2vec"
    save(tmp_path / "h.pt", features_of(512).reshape(2, 256, 8))
    assert format_of(tmp_path / "h.pt") == "hipt"


def test_a_damaged_first_file_does_not_hide_the_tool(tmp_path: Path) -> None:
    folder = tmp_path / "features_e"
    write_trident(folder / "b.h5", FEATURES, COORDS)
    (folder / "a.h5").write_bytes(b"no HDF5")
    assert find(folder, None)[0] == "trident"


@pytest.mark.parametrize("tool", [None, "clam"])
def test_folders_without_features(tmp_path: Path, tool: str | None) -> None:
    with pytest.raises(UsageError, match="contains no feature files"):
        find(tmp_path, tool)
    with pytest.raises(UsageError, match="is not a folder"):
        find(tmp_path / "absent", tool)
    (tmp_path / "a.h5").write_bytes(b"no HDF5")
    with pytest.raises(UsageError, match="none of the first files has a known format"):
        find(tmp_path, None)


@pytest.mark.parametrize("layout", ["rows", "many rows", "contiguous", "compressed", "swapped"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_features_are_read_alike_from_any_layout(tmp_path: Path, layout: str, dtype: str) -> None:
    values = features_of(300, 24, dtype=dtype)
    layouts: dict[str, dict[str, Any]] = {
        "rows": {"chunks": (1, 24), "maxshape": (None, 24)},
        "many rows": {"chunks": (16, 24)},
        "contiguous": {},
        "compressed": {"chunks": (1, 24), "compression": "gzip"},
        "swapped": {"dtype": np.dtype(dtype).newbyteorder(">")},
    }
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("features", data=values, **layouts[layout])
    found = open_rows(open_h5(tmp_path / "a.h5").datasets["features"], tmp_path / "a.h5")
    index = np.array([299, 0, 17, 17, 5])
    assert found.shape == (300, 24)
    assert (found.take(index) == values[index]).all()


def test_rows_may_lie_in_the_file_in_any_order(tmp_path: Path) -> None:
    values = features_of(50, 24)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("features", (50, 24), "f4", chunks=(1, 24))
        for row in np.random.default_rng(0).permutation(50):
            data[row] = values[row]
    found = open_rows(open_h5(tmp_path / "a.h5").datasets["features"], tmp_path / "a.h5")
    assert (found.take(np.arange(50)) == values).all()


def test_rows_that_were_never_written_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("features", shape=(5, 4), chunks=(1, 4), dtype="f4")[2] = 7
    with pytest.raises(SlideError, match=r"claims 80 bytes, but the file holds 16"):
        open_rows(open_h5(tmp_path / "a.h5").datasets["features"], tmp_path / "a.h5")


def test_compressed_features_are_not_held_before_they_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=FEATURES, chunks=(7, 8), compression="gzip")
    features = open_rows(open_h5(path).datasets["features"], path)
    assert features.shape == FEATURES.shape
    path.rename(tmp_path / "b.h5")
    with pytest.raises(SlideError, match="cannot be read"):
        features.take(np.arange(3))


def test_two_files_of_one_slide_are_told(tmp_path: Path) -> None:
    regions, corners = features_of(32).reshape(2, 16, 8), lattice_of(2, 1, 2048)
    write_slide2vec(tmp_path, "a", regions, corners, suffix=".pt")
    folder = write_slide2vec(tmp_path, "a", regions, corners, suffix=".npz")
    with pytest.raises(SlideError, match="belong to the same slide"):
        read(folder)


@pytest.mark.parametrize("seed", range(40))
def test_damage_is_told_as_such(tmp_path: Path, seed: int) -> None:
    """Bytes of the header, of the chunks' index or of attributes are overwritten: an error for the user, or none."""
    path = write_trident(tmp_path / "features_e" / "a.h5", FEATURES, COORDS)
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(8, len(data), 60):
        data[place] = rng.integers(256)
    path.write_bytes(data)
    with suppress(SlideError):
        rows(trident.read(SourceSlide("a", (path,)), Settings()))


def test_the_resolution_that_was_meant() -> None:
    assert [nominal_mpp(mpp) for mpp in (0.2526, 0.23, 0.5052, 0.46, 1.03, 0.35, 2.0)] == [
        0.25,
        0.25,
        0.5,
        0.5,
        1,
        0.35,
        2,
    ]


def test_what_says_something() -> None:
    attributes = {"a": "None", "b": b"nan", "c": " ", "d": np.float32(2), "e": b"uni"}
    assert known(attributes, "a", "b", "c", "x", "d") == 2
    assert known(attributes, "e") == "uni"
    assert known(attributes, "a", "x") is None
