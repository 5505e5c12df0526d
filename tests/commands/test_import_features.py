"""`slpd import` end to end: round trips of our own tokens through each format, and bad files among good ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from slpd_toolkit.cli import app as cli
from slpd_toolkit.commands import import_features
from slpd_toolkit.commands import inspect as inspection
from slpd_toolkit.config.import_features import ImportConfig
from slpd_toolkit.config.inspect import InspectConfig
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.foreign.formats import trident as trident_format
from slpd_toolkit.ingest.importing import importer
from slpd_toolkit.store.token_file import TokenFile, TokenStore
from tests.cohorts import read_csv, write_manifest
from tests.foreign.factory import (
    features_of,
    flat,
    lattice_of,
    shuffled,
    write_clam,
    write_slide2vec,
    write_stamp,
    write_trident,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt
    from typer.testing import Result

    Array = npt.NDArray[Any]

GRID, WIDTH, REGION_L0 = 4, 8, 2048
CORNERS = np.array([[0, 0], [2048, 0], [0, 2048], [4096, 2048], [2048, 6144]])


def slpd(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def tokens_of(seed: int = 0) -> Array:
    """Return (5, 4, 4, 8) tokens as stored in our cache."""
    return features_of(5 * GRID * GRID, WIDTH, seed, "f2").reshape(5, GRID, GRID, WIDTH)


def import_folder(source: Path, out: Path, **changes: Any) -> int:
    return import_features.run(ImportConfig(source=source, out=out, **({"region_px": 1024} | changes)))


def trident(folder: Path, tokens: Array) -> tuple[Path, dict[str, Any]]:
    features, coords = shuffled(*flat(tokens, CORNERS, REGION_L0))
    write_trident(folder / "features_uni_v1" / "s.h5", features.astype("f4"), coords)
    return folder / "features_uni_v1", {}


def clam(folder: Path, tokens: Array) -> tuple[Path, dict[str, Any]]:
    features, coords = shuffled(*flat(tokens, CORNERS, REGION_L0))
    source = write_clam(folder, "s", features, coords, downsample=(2.0, 2.0))
    return source, {"coords": folder / "results/patches", "encoder_name": "resnet50", "mpp": 0.25}


def stamp(folder: Path, tokens: Array) -> tuple[Path, dict[str, Any]]:
    features, coords = shuffled(*flat(tokens, CORNERS, REGION_L0))
    jitter = np.random.default_rng(5).uniform(0, 3, coords.shape)
    write_stamp(
        folder / "uni" / "s.h5", features, coords * 0.25 + jitter, tile_size_um=128.0, tile_size_px=256, unit="um"
    )
    return folder / "uni", {"mpp": 0.25}


def stamp_v1(folder: Path, tokens: Array) -> tuple[Path, dict[str, Any]]:
    features, coords = shuffled(*flat(tokens, CORNERS, REGION_L0))
    write_stamp(folder / "uni" / "s.h5", features, coords / 512 * 224)
    manifest = write_manifest(folder / "m.csv", [{"slide_id": "s", "slide_path": "s.svs", "mpp": 0.5}])
    return folder / "uni", {"region_px": 896, "manifest": manifest}


def slide2vec(folder: Path, tokens: Array) -> tuple[Path, dict[str, Any]]:
    regions, corners = shuffled(tokens.reshape(5, GRID * GRID, WIDTH), CORNERS)
    return write_slide2vec(folder, "s", regions, corners), {"mpp": 0.25}


def hipt_regions(folder: Path, tokens: Array) -> tuple[Path, dict[str, Any]]:
    (folder / "tokens").mkdir(parents=True)
    for region, (x, y) in zip(tokens, CORNERS, strict=True):
        torch.save(torch.from_numpy(region.reshape(GRID * GRID, WIDTH)), folder / "tokens" / f"s_{x}_{y}.pt")
    return folder / "tokens", {"mpp": 0.25, "encoder_name": "hipt"}


FORMATS: list[Callable[[Path, Array], tuple[Path, dict[str, Any]]]] = [
    trident,
    clam,
    stamp,
    stamp_v1,
    slide2vec,
    hipt_regions,
]


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("write", FORMATS)
def test_our_tokens_come_back_from_every_format(
    tmp_path: Path, write: Callable[[Path, Array], tuple[Path, dict[str, Any]]], named: bool
) -> None:
    tokens = tokens_of()
    source, settings = write(tmp_path, tokens)
    if named:
        settings["tool"] = write.__name__.split("_")[0]
    assert import_folder(source, tmp_path / "cache", **settings) == 0
    (slide,) = TokenStore.open(tmp_path / "cache").files
    assert slide.meta.slide_id == "s"
    assert slide.meta.grid == GRID
    assert np.array_equal(slide.tokens, tokens)
    assert slide.present is None
    assert (slide.tissue == 1).all()
    assert np.abs(slide.coords - CORNERS).max() <= (12 if write is stamp else 0)  # 3 um of jitter are 12 px
    assert slide.meta.region_l0 == pytest.approx(REGION_L0, abs=4)
    report = json.loads(slide.meta.source)
    assert (report["patches"], report["placed"]) == (80, 80)


def test_missing_patches_are_zeros_without_tissue(tmp_path: Path) -> None:
    tokens = tokens_of()
    features, coords = flat(tokens, CORNERS, REGION_L0)
    kept = np.random.default_rng(0).random(80) < 0.7
    features, coords = shuffled(features[kept].astype("f4"), coords[kept])
    write_trident(tmp_path / "features_e" / "s.h5", features, coords)
    assert import_folder(tmp_path / "features_e", tmp_path / "cache") == 0
    slide = TokenFile.open(tmp_path / "cache" / "s.h5")
    present = kept.reshape(5, GRID, GRID)
    assert slide.present is not None
    assert np.array_equal(slide.present, present)
    assert np.array_equal(slide.tokens, np.where(present[..., None], tokens, 0))
    assert np.array_equal(slide.tissue, present)


def test_what_is_known_travels_along_and_what_is_not_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coords = lattice_of(8, 8, 512)
    write_trident(tmp_path / "features_uni_v1" / "s.h5", features_of(64), coords, level0_width=9000, level0_height=4097)
    import_folder(tmp_path / "features_uni_v1", tmp_path / "cache")
    meta = TokenFile.open(tmp_path / "cache" / "s.h5").meta
    assert (meta.encoder, meta.embedding_dim, meta.encoder_sha256) == ("uni_v1", 8, "unknown, features from trident")
    assert (meta.mean, meta.std, meta.precision, meta.encoder_input_px) == ((), (), "unknown", 0)
    assert (meta.patch_px, meta.region_px, meta.region_l0) == (256, 1024, 2048)
    assert (meta.mpp_l0, meta.target_mpp, meta.effective_mpp, meta.upsampling) == (0.25, 0.5, 0.5, 1.0)
    assert (meta.slide_width_l0, meta.slide_height_l0) == (9000, 4097)
    capsys.readouterr()
    inspection.run(InspectConfig(path=tmp_path / "cache" / "s.h5"))
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "imported from",
        "64 of 64, moved to the grid by at most",
        "from the magnification 40x",
        "unknown, features from trident",
    ):
        assert words in said
    assert "input 0 px" not in said
    inspection.run(InspectConfig(path=tmp_path / "cache"))


def test_a_size_that_is_not_known_is_the_regions(tmp_path: Path) -> None:
    write_stamp(tmp_path / "e" / "s.h5", features_of(20), lattice_of(5, 4, 224))
    import_folder(tmp_path / "e", tmp_path / "cache", region_px=896)
    meta = TokenFile.open(tmp_path / "cache" / "s.h5").meta
    assert (meta.slide_width_l0, meta.slide_height_l0) == (1792, 896)
    assert "size of the slide is unknown" in " ".join(json.loads(meta.source)["notes"])


def good(folder: Path, count: int = 3, **attributes: Any) -> Path:
    """Write a folder of TRIDENT with `count` slides a, b, c, ... of 64 patches each."""
    for index in range(count):
        write_trident(
            folder / f"{chr(97 + index)}.h5", features_of(64, seed=index), lattice_of(8, 8, 512), **attributes
        )
    return folder


def nan(folder: Path) -> None:
    features = features_of(64)
    features[17, 3] = np.nan
    write_trident(folder / "bad.h5", features, lattice_of(8, 8, 512))


def beyond_float16(folder: Path) -> None:
    write_trident(folder / "bad.h5", features_of(64) * 1e6, lattice_of(8, 8, 512))


def of_another_width(folder: Path) -> None:
    write_trident(folder / "bad.h5", features_of(64, 16), lattice_of(8, 8, 512))


def of_another_patch(folder: Path) -> None:
    write_trident(folder / "bad.h5", features_of(64), lattice_of(8, 8, 1024), patch_size=512, patch_size_level0=1024)


def of_another_magnification(folder: Path) -> None:
    write_trident(
        folder / "bad.h5", features_of(64), lattice_of(8, 8, 256), patch_size_level0=256, target_magnification=40
    )


def of_unequal_length(folder: Path) -> None:
    write_trident(folder / "bad.h5", features_of(63), lattice_of(8, 8, 512))


def beyond_the_slide(folder: Path) -> None:
    write_trident(folder / "bad.h5", features_of(64), lattice_of(8, 8, 512), level0_width=3000)


def empty(folder: Path) -> None:
    write_trident(folder / "bad.h5", np.zeros((0, 8), "f4"), np.zeros((0, 2)), chunked=False)


def in_another_unit(folder: Path) -> None:
    write_trident(folder / "bad.h5", features_of(64), lattice_of(8, 8, 128))


def of_whole_numbers(folder: Path) -> None:
    write_trident(folder / "bad.h5", features_of(64).astype(np.int32), lattice_of(8, 8, 512))


def of_one_axis(folder: Path) -> None:
    write_trident(folder / "bad.h5", features_of(64)[:, 0], lattice_of(8, 8, 512))


def cut_short(folder: Path) -> None:
    write_trident(folder / "bad.h5", features_of(64), lattice_of(8, 8, 512))
    data = (folder / "bad.h5").read_bytes()
    (folder / "bad.h5").write_bytes(data[: len(data) // 2])


def no_hdf5(folder: Path) -> None:
    (folder / "bad.h5").write_bytes(b"<html>not found</html>")


def without_coords(folder: Path) -> None:
    with h5py.File(folder / "bad.h5", "w") as file:
        file["features"] = features_of(64)


def without_a_name(folder: Path) -> None:
    write_trident(folder / "None.h5", features_of(64), lattice_of(8, 8, 512))


def of_a_hostile_name(folder: Path) -> None:
    write_trident(folder / "bad; rm -rf .h5", features_of(64), lattice_of(8, 8, 512))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (nan, "features of row 17 are NaN, infinite or beyond float16"),
        (beyond_float16, "NaN, infinite or beyond float16"),
        (of_another_width, "features: 16 instead of 8"),
        (of_another_patch, "patch_px: 512 instead of 256"),
        (of_another_magnification, "patches have 0.25 um/px, the cohort 0.5, allowed: 0.333 to 0.75"),
        (of_unequal_length, "64 coordinates for 63 patches"),
        (beyond_the_slide, "16 of 64 coordinates are outside the slide"),
        (empty, "contains no patches"),
        (in_another_unit, "neighboring patches are 128 apart, but 512 according to the files"),
        (of_whole_numbers, "expected (N, D) floating-point numbers"),
        (of_one_axis, "features are (64,) float32, expected (N, D)"),
        (cut_short, "cannot be read as HDF5"),
        (no_hdf5, "cannot be read as HDF5"),
        (without_coords, "has no dataset 'coords', only features"),
        (without_a_name, "the slide would be named 'None'"),
        (of_a_hostile_name, "the slide would be named 'bad; rm -rf '"),
    ],
)
def test_one_bad_slide_is_listed_and_the_others_are_done(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    source = good(tmp_path / "features_e")
    spoil(source)
    assert import_folder(source, tmp_path / "cache") == 1
    assert sorted(path.name for path in (tmp_path / "cache").glob("*.h5")) == ["a.h5", "b.h5", "c.h5"]
    assert not list((tmp_path / "cache").glob(".*"))
    (failure,) = read_csv(tmp_path / "cache" / "failures.csv")
    assert said in failure["error"]
    assert failure["hint"]
    assert not failure["hint"].startswith("Unexpected")
    assert failure["stage"] == "import"
    assert failure["path"].startswith(str(source))


def test_a_slide_that_fails_unexpectedly_while_the_cohort_is_chosen_is_one_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, read = good(tmp_path / "features_e"), trident_format.read

    def fails_at_a(slide: Any, settings: Any) -> Any:
        if slide.slide_id == "a":
            raise ValueError("nobody thought of this")
        return read(slide, settings)

    monkeypatch.setattr(trident_format, "read", fails_at_a)
    assert import_folder(source, tmp_path / "cache") == 1
    assert sorted(path.name for path in (tmp_path / "cache").glob("*.h5")) == ["b.h5", "c.h5"]
    (failure,) = read_csv(tmp_path / "cache" / "failures.csv")
    assert failure["error"] == "ValueError: nobody thought of this"


def test_two_rows_of_a_manifest_cannot_have_the_same_features(tmp_path: Path) -> None:
    source = good(tmp_path / "features_e")
    rows = [{"slide_id": "a", "slide_path": "a.svs"}, {"slide_id": "z", "slide_path": "other/a.svs"}]
    manifest = write_manifest(tmp_path / "m.csv", rows)
    assert import_folder(source, tmp_path / "cache", manifest=manifest) == 1
    assert [path.name for path in (tmp_path / "cache").glob("*.h5")] == ["a.h5"]
    (failure,) = read_csv(tmp_path / "cache" / "failures.csv")
    assert failure["slide_id"] == "z"
    assert "already belongs to slide a of the manifest" in failure["error"]


def test_the_encoder_of_most_slides_is_the_cohort_s(tmp_path: Path) -> None:
    for index in range(5):
        write_stamp(tmp_path / "f" / f"s{index}.h5", features_of(16), lattice_of(4, 4, 224))
    with h5py.File(tmp_path / "f" / "s0.h5", "a") as file:
        file.attrs["extractor"] = "another-01234567"
    assert import_folder(tmp_path / "f", tmp_path / "cache", region_px=896) == 1
    assert len(list((tmp_path / "cache").glob("*.h5"))) == 4
    (failure,) = read_csv(tmp_path / "cache" / "failures.csv")
    assert failure["slide_id"] == "s0"
    assert "encoder: 'another-01234567' instead of 'uni-0123abcd'" in failure["error"]


def test_a_folder_of_bad_slides_alone(tmp_path: Path) -> None:
    (tmp_path / "features_e").mkdir()
    empty(tmp_path / "features_e")
    assert import_folder(tmp_path / "features_e", tmp_path / "cache") == 1
    assert "contains no patches" in read_csv(tmp_path / "cache" / "failures.csv")[0]["error"]


def test_what_no_file_says_is_asked_for_before_anything_starts(tmp_path: Path) -> None:
    source = write_clam(tmp_path, "s", features_of(64), lattice_of(8, 8, 256))
    with pytest.raises(UsageError, match="stores the patch size separately"):
        import_folder(source, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_finished_slides_are_skipped_and_changed_ones_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = good(tmp_path / "features_e")
    import_folder(source, tmp_path / "cache")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.h5")}
    assert import_folder(source, tmp_path / "cache") == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert "0 imported, 3 already in the cache" in capsys.readouterr().out
    assert len(read_csv(tmp_path / "cache" / "imported.csv")) == 3
    write_trident(source / "b.h5", features_of(64, seed=9), lattice_of(8, 8, 512))
    assert import_folder(source, tmp_path / "cache") == 1
    (failure,) = read_csv(tmp_path / "cache" / "failures.csv")
    assert "b.h5 already exists, but slide_fingerprint" in failure["error"]
    assert import_folder(source, tmp_path / "cache", overwrite=True) == 0
    assert import_folder(source, tmp_path / "cache", tolerance=0.25) == 1
    assert "tolerance: 0.5 there, 0.25 here" in read_csv(tmp_path / "cache" / "failures.csv")[0]["error"]


def test_the_report_holds_all_slides_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cache = good(tmp_path / "features_e", 4), tmp_path / "cache"
    assert import_folder(whole, tmp_path / "at_once") == 0
    wanted = read_csv(tmp_path / "at_once" / "imported.csv")
    assert [row["slide_id"] for row in wanted] == ["a", "b", "c", "d"]
    for slide_id in "cab":  # in parts, as batches arrive
        rows = [{"slide_id": slide_id, "slide_path": f"{slide_id}.svs"}]
        assert import_folder(whole, cache, manifest=write_manifest(tmp_path / "m.csv", rows)) == 0
    assert read_csv(cache / "imported.csv") == wanted[:3]

    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(import_features, "write_report", killed)
        with pytest.raises(Killed):
            import_folder(whole, cache)
    (whole / "d.h5").unlink()  # d is in the cache, and no later run sees it again
    assert import_folder(whole, cache) == 0
    assert read_csv(cache / "imported.csv") == wanted
    (cache / "b.h5").unlink()
    (cache / "c.h5").write_bytes(b"cut short")
    assert import_folder(whole, cache, limit=1) == 0
    assert [row["slide_id"] for row in read_csv(cache / "imported.csv")] == ["a", "d"]


def test_the_report_of_an_interrupted_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, write = good(tmp_path / "features_e"), importer.write_tokens

    def interrupted(writer: Any, slide: Any, placement: Any) -> int:
        if slide.slide_id == "c":
            raise KeyboardInterrupt
        return write(writer, slide, placement)

    monkeypatch.setattr(importer, "write_tokens", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_folder(whole, tmp_path / "cache")
    assert [row["slide_id"] for row in read_csv(tmp_path / "cache" / "imported.csv")] == ["a", "b"]
    assert not list((tmp_path / "cache").glob(".*"))


@pytest.mark.parametrize(("changes", "said"), [({"region_px": 2048}, "region_px"), ({"encoder_name": "x"}, "encoder")])
def test_another_cohort_s_cache_is_left_alone(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    source = good(tmp_path / "features_e")
    import_folder(source, tmp_path / "cache")
    with pytest.raises(UsageError, match=f"was written with other settings: {said}"):
        import_folder(source, tmp_path / "cache", **changes)


def test_region_sizes_that_do_not_fit(tmp_path: Path) -> None:
    source = good(tmp_path / "features_e")
    with pytest.raises(
        UsageError, match=r"--region-px: got 1000, allowed: a multiple of the patch side \(256 px\)"
    ) as caught:
        import_folder(source, tmp_path / "cache", region_px=1000)
    assert "Use 1024" in caught.value.hint
    folder = write_slide2vec(tmp_path, "s", features_of(16).reshape(1, 16, 8), np.zeros((1, 2)))
    with pytest.raises(
        UsageError, match="--region-px: got 4096, allowed: 1024, because the files contain whole regions"
    ):
        import_folder(folder, tmp_path / "cache", region_px=4096, mpp=0.25)


def test_a_manifest_chooses_names_and_resolutions(tmp_path: Path) -> None:
    source = good(tmp_path / "features_e", 4)
    rows: list[dict[str, object]] = [
        {"slide_id": "b", "slide_path": "x.svs", "mpp": 0.2526},
        {"slide_id": "renamed", "slide_path": "slides/c.svs", "mpp": ""},
        {"slide_id": "gone", "slide_path": "gone.svs", "mpp": ""},
        {"slide_id": "d", "slide_path": "d.svs", "mpp": "half"},
    ]
    manifest = write_manifest(tmp_path / "m.csv", rows)
    assert import_folder(source, tmp_path / "cache", manifest=manifest) == 1
    store = TokenStore.open(tmp_path / "cache")
    assert store.slide_ids == ("b", "renamed")
    assert [slide.meta.mpp_l0 for slide in store.files] == [0.2526, 0.25]
    assert store.files[0].meta.effective_mpp == pytest.approx(0.5052)
    failures = {row["slide_id"]: row["error"] for row in read_csv(tmp_path / "cache" / "failures.csv")}
    assert failures == {"gone": "there are no features of this slide.", "d": "mpp is 'half'."}


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    source = good(tmp_path / "features_e")
    done = slpd("import", source, "--out", tmp_path / "4", "--region-px", 1024, "--limit", 3)
    assert "192: 192 placed, 0 left out" in done.output
    for arguments in (
        ("import", source, "--out", tmp_path / "1", "--region-px", 1024),
        ("import", "--out", tmp_path / "2", "--region-px", 1024, source),
        ("import", "trident", source, "--out", tmp_path / "3", "--region-px", 1024),
        ("import", "auto", source, "--out", tmp_path / "4", "--region-px", 1024),
    ):
        done = slpd(*arguments)
        assert done.exit_code == 0, done.output
    assert all(TokenStore.open(tmp_path / name).slide_ids == ("a", "b", "c") for name in "1234")
    wrong = slpd("import", "clam", source, "--out", tmp_path / "5")
    assert wrong.exit_code == 2
    assert "--coords RESULTS/patches" in " ".join(wrong.output.split())
    for tool in ("", "auto", "trident", "clam", "stamp", "slide2vec", "hipt"):
        shown = slpd("import", *filter(None, [tool]), "--help")
        assert shown.exit_code == 0
        assert "Usage" in shown.output
        assert ("--tool" in shown.output) is False
    assert slpd("import").exit_code == 2


def test_real_files_of_stamp(tmp_path: Path, data: Path) -> None:
    source = data / "features" / "stamp_v1"
    assert import_features.run(ImportConfig(source=source, out=tmp_path, target_mpp=2.0, min_tissue=0)) == 0
    store = TokenStore.open(tmp_path)
    assert (store.grid, store.embedding_dim, store.meta.patch_px, store.meta.region_px) == (16, 768, 224, 3584)
    for slide in store.files:
        with h5py.File(source / slide.path.name) as file:
            feats, coords = file["feats"][...], file["coords"][...]
        assert slide.present is not None
        assert slide.present.sum() == len(feats)
        regions, within = np.divmod(coords // 224, 16)
        lookup = {tuple(corner): index for index, corner in enumerate((slide.coords // 3584).tolist())}
        index = [lookup[tuple(region)] for region in regions.tolist()]
        assert np.array_equal(slide.tokens[index, within[:, 1], within[:, 0]], feats)
