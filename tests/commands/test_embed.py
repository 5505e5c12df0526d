"""Stage one end to end: positions of tokens, resuming, rejected settings, shards."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from slpd_toolkit.commands import embed
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import fingerprint
from slpd_toolkit.ingest.embedding.readers import NICER, make_readers
from slpd_toolkit.slides import regions
from slpd_toolkit.store.token_file import TokenFile, TokenStore
from tests.cohorts import (
    mean_colour_encoder,
    read_csv,
    small_config,
    tiny_vit_encoder,
    write_cohort,
    write_manifest,
    write_token_file,
)
from tests.slide_factory import EOSIN, glass, noise, smooth_noise, tissue_on_glass, write_slide

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

PLANTED = (20, 200, 60)


@pytest.fixture(autouse=True)
def mean_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use an encoder with predictable tokens; real encoders have their own tests."""
    monkeypatch.setattr(embed, "make_encoder", mean_colour_encoder)


@pytest.fixture
def tiny_vit(monkeypatch: pytest.MonkeyPatch, mean_colour: None) -> None:
    monkeypatch.setattr(embed, "make_encoder", tiny_vit_encoder)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small slides."""
    return write_cohort(tmp_path_factory.mktemp("cohort"))


def one_slide(folder: Path, picture: npt.NDArray[np.uint8], *, mpp: float, **keywords: Any) -> Path:
    write_slide(folder / "slide.tif", picture, mpp=mpp, **keywords)
    return write_manifest(folder / "manifest.csv", [{"slide_id": "slide", "slide_path": "slide.tif"}])


def contents(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(cache.glob("*.h5"))}


def modified(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(cache.glob("*.h5"))}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("region_px", "patch_px", "mpp", "mpp_l0"),
    [(256, 64, 1.0, 1.0), (512, 64, 1.0, 1.0), (256, 32, 2.0, 1.0), (384, 128, 1.0, 0.5), (320, 80, 1.0, 1.25)],
)
def test_a_planted_colour_is_found_at_its_row_and_column(
    tmp_path: Path, region_px: int, patch_px: int, mpp: float, mpp_l0: float
) -> None:
    """The only patch of this color is in the last regions of a slide that is wider than high."""
    region_l0, patch_l0 = round(region_px * mpp / mpp_l0), round(patch_px * mpp / mpp_l0)
    height_l0, width_l0 = 2 * region_l0 + patch_l0 // 2, 3 * region_l0 + 2 * patch_l0
    picture = np.full((height_l0, width_l0, 3), EOSIN, np.uint8)
    grid = region_px // patch_px
    lattice_row, lattice_column, row, column = 1, 2, grid - 1, 1
    left, top = lattice_column * region_l0 + column * patch_l0, lattice_row * region_l0 + row * patch_l0
    picture[top : top + patch_l0, left : left + patch_l0] = PLANTED
    manifest = one_slide(tmp_path, picture, mpp=mpp_l0)
    config = small_config(
        manifest, tmp_path / "cache", min_tissue=0.0, mpp=mpp, region_px=region_px, patch_px=patch_px, batch_size=7
    )
    assert embed.run(config) == 0

    file = TokenFile.open(tmp_path / "cache" / "slide.h5")
    assert file.tokens.shape == (12, grid, grid, 3)
    assert file.coords.tolist() == [[x * region_l0, y * region_l0] for y in range(3) for x in range(4)]
    tokens = file.tokens.astype(np.float32)
    here = np.abs(tokens - PLANTED).max(axis=-1) <= (1 if mpp >= mpp_l0 else 12)
    assert np.argwhere(here).tolist() == [[lattice_row * 4 + lattice_column, row, column]]
    region, row, column = np.argwhere(here)[0]
    patch_corner = file.coords[region] + np.array([column, row]) * file.meta.region_l0 / grid
    assert patch_corner.tolist() == [left, top]


@pytest.mark.slow
@pytest.mark.parametrize("block_px", [64, 128, 1024])
def test_every_token_is_the_patch_of_its_coordinates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_px: int
) -> None:
    """Each token equals the mean of its patch in the image, white beyond the slide; batches cross regions."""
    monkeypatch.setattr(regions, "BLOCK_PX", block_px)
    picture = smooth_noise(600, 850)
    manifest = one_slide(tmp_path, picture, mpp=1.0, downsamples=())
    config = small_config(manifest, tmp_path / "cache", min_tissue=0.0, batch_size=5, workers=3)
    assert embed.run(config) == 0
    file = TokenFile.open(tmp_path / "cache" / "slide.h5")
    padded = np.full((768, 1024, 3), 255.0)
    padded[:600, :850] = picture
    expected = padded.reshape(3, 4, 64, 4, 4, 64, 3).mean(axis=(2, 5)).swapaxes(1, 2).reshape(12, 4, 4, 3)
    assert np.abs(file.tokens.astype(np.float32) - expected).max() < 0.2  # float16 steps by 1/8 above 128
    assert (expected == 255).all(axis=-1).sum() > 20
    assert (file.tokens[(expected == 255).all(axis=-1)] == 255).all()


def test_a_slide_smaller_than_a_region_is_padded_with_white_and_no_tissue(tmp_path: Path) -> None:
    picture = tissue_on_glass(300, 400, [(0, 0, 400, 300)], mpp=1.0)
    config = small_config(one_slide(tmp_path, picture, mpp=1.0), tmp_path / "cache", region_px=512, min_tissue=0.9)
    assert embed.run(config) == 0
    file = TokenFile.open(tmp_path / "cache" / "slide.h5")
    assert file.coords.tolist() == [[0, 0]]
    assert (file.tokens[0, 5:] == 255).all()
    assert (file.tokens[0, :, 7:] == 255).all()
    assert (file.tokens[0, :5, :7] != 255).any(axis=-1).all()
    assert (file.tissue[0, 5:] == 0).all()
    assert (file.tissue[0, :, 7:] == 0).all()
    assert (file.tissue[0, :4, :6] > 0.9).all()
    assert float(file.tissue[0, 2, 6]) == pytest.approx(16 / 64, abs=0.02)


@pytest.mark.slow
def test_what_the_file_says_of_itself(manifest: Path, tmp_path: Path) -> None:
    config = small_config(manifest, tmp_path / "cache", seed=3)
    assert embed.run(config) == 0
    store = TokenStore.open(config.out)
    assert store.slide_ids == ("s0", "s1", "s2")
    meta = store.files[1].meta
    assert (meta.slide_width_l0, meta.slide_height_l0) == (836, 764)
    assert meta.slide_fingerprint == fingerprint(manifest.parent / "s1.tif")
    assert meta.mpp_l0 == pytest.approx(1.0)
    assert (meta.target_mpp, meta.patch_px, meta.region_px, meta.region_l0) == (1.0, 64, 256, 256)
    assert meta.effective_mpp == pytest.approx(1.0)
    assert meta.upsampling == 1.0
    assert (meta.encoder, meta.embedding_dim, meta.encoder_input_px, meta.precision) == ("random", 3, 64, "fp32")
    assert (meta.encoder_sha256, meta.mean, meta.std) == (f"{3:064x}", (0.0, 0.0, 0.0), (1 / 255,) * 3)
    recipe = json.loads(meta.recipe)
    assert recipe["seed"] == 3
    assert recipe["out"] == str(config.out)
    assert read_csv(config.out / "failures.csv") == []
    assert (config.out / "failures.csv").read_text() == "stage,slide_id,path,error,hint\n"


@pytest.mark.slow
def test_the_geometry_that_nobody_chose_is_that_of_the_encoder_also_in_what_the_file_says(tmp_path: Path) -> None:
    manifest = one_slide(tmp_path, tissue_on_glass(700, 900, [(100, 80, 640, 600)], mpp=1.0), mpp=1.0, downsamples=())
    unchosen = {"mpp": None, "patch_px": None, "region_px": None}
    config = small_config(manifest, tmp_path / "cache", max_upsample=2.0, **unchosen)
    assert embed.run(config) == 0
    file = TokenFile.open(config.out / "slide.h5")
    assert file.tokens.shape == (1, 16, 16, 3)
    meta, recipe = file.meta, json.loads(file.meta.recipe)
    assert (meta.patch_px, meta.region_px, meta.target_mpp) == (256, 4096, 0.5)
    assert (recipe["patch_px"], recipe["region_px"], recipe["mpp"]) == (256, 4096, 0.5)
    assert embed.run(config) == 0  # the same cache
    with pytest.raises(UsageError, match="patch_px"):
        embed.run(small_config(manifest, config.out, max_upsample=2.0, **unchosen | {"patch_px": 128}))


def test_a_second_run_skips_what_is_complete_and_adds_what_is_new(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"slide_id": f"s{index}", "slide_path": str(manifest.parent / f"s{index}.tif")} for index in range(3)]
    part = write_manifest(tmp_path / "part.csv", rows[:2])
    assert embed.run(small_config(part, tmp_path / "cache")) == 0
    before, first = modified(tmp_path / "cache"), contents(tmp_path / "cache")
    assert list(first) == ["s0.h5", "s1.h5"]
    capsys.readouterr()
    assert embed.run(small_config(write_manifest(tmp_path / "all.csv", rows), tmp_path / "cache")) == 0
    assert re.search(r"slides +skipped +failed.*\n.*\n +1 +2 +0 ", capsys.readouterr().out)
    after = modified(tmp_path / "cache")
    assert {name: after[name] for name in before} == before
    assert "s2.h5" in after


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_vit")
def test_the_same_run_twice_gives_the_same_bits_whatever_the_threads(manifest: Path, tmp_path: Path) -> None:
    embed.run(small_config(manifest, tmp_path / "one"))
    embed.run(small_config(manifest, tmp_path / "two", workers=4))
    one, two = TokenStore.open(tmp_path / "one"), TokenStore.open(tmp_path / "two")
    for first, second in zip(one.files, two.files, strict=True):
        assert np.array_equal(first.tokens.view(np.uint16), second.tokens.view(np.uint16))
        assert np.array_equal(first.coords, second.coords)
        assert np.array_equal(first.tissue, second.tissue)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_vit")
def test_an_interrupted_cohort_continues_with_the_same_bits(manifest: Path, tmp_path: Path) -> None:
    """Skipping complete slides shifts every later patch to another position in its batch."""
    embed.run(small_config(manifest, tmp_path / "whole"))
    embed.run(small_config(manifest, tmp_path / "resumed"))
    (tmp_path / "resumed" / "s1.h5").unlink()
    embed.run(small_config(manifest, tmp_path / "resumed"))
    whole, resumed = TokenFile.open(tmp_path / "whole" / "s1.h5"), TokenFile.open(tmp_path / "resumed" / "s1.h5")
    assert np.array_equal(whole.tokens.view(np.uint16), resumed.tokens.view(np.uint16))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "attribute", "values"),
    [
        ({"mpp": 1.25}, "target_mpp", ("1.0 there", "1.25 here")),
        ({"patch_px": 32}, "patch_px", ("64 there", "32 here")),
        ({"region_px": 512}, "region_px", ("256 there", "512 here")),
        ({"seed": 1}, "encoder_sha256", ("there", "here")),
        ({"encoder": "random:vit_small"}, "encoder", ("'random' there", "'random:vit_small' here")),
        ({"precision": "bf16"}, "precision", ("'fp32' there", "'bf16' here")),
        ({"min_tissue": 0.3}, "min_tissue", ("0.1 there", "0.3 here")),
    ],
)
def test_other_settings_are_refused_before_any_work_and_nothing_is_touched(
    manifest: Path, tmp_path: Path, changes: dict[str, Any], attribute: str, values: tuple[str, str]
) -> None:
    cache = tmp_path / "cache"
    embed.run(small_config(manifest, cache))
    (cache / "failures.csv").write_text("kept from the run before\n")
    before = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=rf"s0\.h5 was written with other settings: .*{attribute}: ") as caught:
        embed.run(small_config(manifest, cache, **changes))
    assert all(value in caught.value.message for value in values)
    assert "--overwrite" in caught.value.hint
    assert {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_overwrite_redoes_the_slides_of_the_manifest_and_of_nothing_else(manifest: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    embed.run(small_config(manifest, cache))
    before = contents(cache)
    assert embed.run(small_config(manifest, cache, seed=1, overwrite=True)) == 0
    assert all(contents(cache)[name] != before[name] for name in before)
    write_token_file(cache / "other.h5")
    with pytest.raises(UsageError, match=r"other\.h5 was written with other settings"):
        embed.run(small_config(manifest, cache, seed=1, overwrite=True))


@pytest.mark.slow
def test_an_array_job_may_overwrite_part_by_part(manifest: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    embed.run(small_config(manifest, cache))
    for part in ("1/2", "2/2"):
        assert embed.run(small_config(manifest, cache, seed=1, overwrite=True, shard=part)) == 0
    assert len(TokenStore.open(cache).files) == 3


@pytest.mark.slow
def test_a_slide_that_changed_since_fails_and_its_tokens_stay(tmp_path: Path) -> None:
    manifest = write_cohort(tmp_path, 2)
    cache = tmp_path / "cache"
    embed.run(small_config(manifest, cache))
    before = contents(cache)
    write_slide(tmp_path / "s0.tif", tissue_on_glass(700, 900, [(0, 0, 500, 500)], mpp=1.0, seed=9), mpp=1.0)
    now = fingerprint(tmp_path / "s0.tif")
    assert embed.run(small_config(manifest, cache)) == 1
    (failure,) = read_csv(cache / "failures.csv")
    assert failure["slide_id"] == "s0"
    assert f"'{now}' here" in failure["error"]
    assert "slide_fingerprint" in failure["error"]
    assert "--overwrite" in failure["hint"]
    assert contents(cache) == before
    assert embed.run(small_config(manifest, cache, overwrite=True)) == 0
    assert read_csv(cache / "failures.csv") == []
    assert TokenFile.open(cache / "s0.h5").meta.slide_fingerprint == now


def test_another_resolution_in_the_manifest_fails_with_both_values(manifest: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    embed.run(small_config(manifest, cache))
    row = {"slide_id": "s0", "slide_path": str(manifest.parent / "s0.tif"), "mpp": "0.9"}
    assert embed.run(small_config(write_manifest(tmp_path / "m.csv", [row]), cache)) == 1
    (failure,) = read_csv(cache / "failures.csv")
    assert "mpp_l0: 1.0" in failure["error"]
    assert "0.9 here" in failure["error"]


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n" + b"\0" * 500])
def test_a_file_in_the_way_that_is_no_token_file_fails_its_slide_only(
    manifest: Path, tmp_path: Path, content: bytes
) -> None:
    cache = tmp_path / "cache"
    first = write_manifest(tmp_path / "m.csv", [{"slide_id": "s0", "slide_path": str(manifest.parent / "s0.tif")}])
    assert embed.run(small_config(first, cache)) == 0  # what can be read tells the encoder of the cache
    (cache / "s1.h5").write_bytes(content)
    assert embed.run(small_config(manifest, cache)) == 1
    (failure,) = read_csv(cache / "failures.csv")
    assert failure["slide_id"] == "s1"
    assert "cannot be read as a token file" in failure["error"]
    assert "remove it" in failure["hint"].lower()
    assert sorted(contents(cache)) == ["s0.h5", "s1.h5", "s2.h5"]
    assert embed.run(small_config(manifest, cache, overwrite=True)) == 0
    assert len(TokenStore.open(cache).files) == 3


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_shards_cover_every_slide_once(tmp_path: Path, parts: int) -> None:
    write_slide(tmp_path / "slide.tif", noise(300, 300), mpp=1.0)
    rows = [{"slide_id": f"s{index}", "slide_path": "slide.tif"} for index in range(4)]
    rows.insert(2, {"slide_id": "bad", "slide_path": "absent.tif"})
    manifest = write_manifest(tmp_path / "manifest.csv", rows)
    made, failed = [], []
    for part in range(1, parts + 1):
        cache = tmp_path / f"cache{part}"
        embed.run(small_config(manifest, cache, shard=f"{part}/{parts}", min_tissue=0.0))
        made += [path.stem for path in cache.glob("*.h5")]
        (log,) = cache.glob("failures*.csv")
        assert log.name == ("failures.csv" if parts == 1 else f"failures.{part}-of-{parts}.csv")
        failed += [row["slide_id"] for row in read_csv(log)]
    assert sorted(made) == ["s0", "s1", "s2", "s3"]
    assert failed == ["bad"]


def test_shards_are_of_near_equal_size_and_interleaved(tmp_path: Path) -> None:
    write_slide(tmp_path / "slide.tif", noise(100, 100), mpp=1.0, downsamples=())
    rows = [{"slide_id": f"s{index}", "slide_path": "slide.tif"} for index in range(5)]
    manifest = write_manifest(tmp_path / "manifest.csv", rows)
    for part, expected in ((1, ["s0", "s2", "s4"]), (2, ["s1", "s3"])):
        cache = tmp_path / f"cache{part}"
        embed.run(small_config(manifest, cache, shard=f"{part}/2", min_tissue=0.0))
        assert sorted(path.stem for path in cache.glob("*.h5")) == expected


@pytest.mark.slow
def test_pictures_are_drawn_only_when_wanted(manifest: Path, tmp_path: Path) -> None:
    embed.run(small_config(manifest, tmp_path / "with"))
    assert sorted(path.name for path in (tmp_path / "with" / "qc").iterdir()) == [
        "index.html",
        "s0.jpg",
        "s1.jpg",
        "s2.jpg",
    ]
    with Image.open(tmp_path / "with" / "qc" / "s0.jpg") as picture:
        picture.load()
        assert picture.format == "JPEG"
    embed.run(small_config(manifest, tmp_path / "without", qc=False))
    assert sorted(path.name for path in (tmp_path / "without").iterdir()) == ["failures.csv", "s0.h5", "s1.h5", "s2.h5"]


def test_an_all_white_slide_fails_with_its_picture_and_the_others_finish(tmp_path: Path) -> None:
    manifest = write_cohort(tmp_path, 1)
    write_slide(tmp_path / "white.tif", glass(500, 500), mpp=1.0)
    rows = [{"slide_id": "white", "slide_path": "white.tif"}, {"slide_id": "s0", "slide_path": "s0.tif"}]
    write_manifest(manifest, rows)
    assert embed.run(small_config(manifest, tmp_path / "cache")) == 1
    (failure,) = read_csv(tmp_path / "cache" / "failures.csv")
    assert failure["slide_id"] == "white"
    assert "no tissue found in 500 x 500 px" in failure["error"]
    assert "--min-tissue 0" in failure["hint"]
    assert (tmp_path / "cache" / "qc" / "white.jpg").is_file()
    assert sorted(contents(tmp_path / "cache")) == ["s0.h5"]
    assert embed.run(small_config(manifest, tmp_path / "all", min_tissue=0.0)) == 0
    assert len(TokenFile.open(tmp_path / "all" / "white.h5")) == 4


def test_leftovers_of_a_killed_run_are_removed_even_beside_a_complete_slide(manifest: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    embed.run(small_config(manifest, cache))
    (cache / ".s0.h5.abcd1234.tmp").write_bytes(b"half")
    (cache / ".s2.h5.abcd1234.tmp").write_bytes(b"half")
    (cache / "s2.h5").unlink()
    (cache / "qc" / ".s2.jpg.abcd1234.tmp").write_bytes(b"half")
    (cache / ".failures.csv.abcd1234.tmp").write_bytes(b"half")
    (cache / ".notes.tmp").write_text("the user's")
    embed.run(small_config(manifest, cache))
    assert [path.name for path in cache.rglob(".*")] == [".notes.tmp"]


def test_a_slide_that_would_be_enlarged_too_far_is_refused_and_less_is_recorded(tmp_path: Path) -> None:
    picture = tissue_on_glass(500, 500, [(0, 0, 500, 500)], mpp=1.0)
    manifest = one_slide(tmp_path, picture, mpp=1.0)
    assert embed.run(small_config(manifest, tmp_path / "far", mpp=0.6)) == 1
    (failure,) = read_csv(tmp_path / "far" / "failures.csv")
    assert "upsampling by 1.67, allowed: 1.6" in failure["error"]
    assert "--mpp 0.625" in failure["hint"]
    assert embed.run(small_config(manifest, tmp_path / "near", mpp=0.625)) == 0
    meta = TokenFile.open(tmp_path / "near" / "slide.h5").meta
    assert meta.upsampling == pytest.approx(1.6, rel=2e-3)
    assert meta.effective_mpp == pytest.approx(0.625, rel=2e-3)


def test_a_file_for_an_output_folder_is_a_usage_error(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UsageError, match=r"--out: .* cannot be created"):
        embed.run(small_config(manifest, tmp_path / "cache"))


def test_the_cache_is_readable_for_the_group(manifest: Path, tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        embed.run(small_config(manifest, tmp_path / "cache", qc=False))
    finally:
        os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "cache").iterdir()} == {0o640}


def test_readers_on_a_cpu_let_the_encoder_run_first() -> None:
    threads, readers = make_readers(1, torch.device("cpu"))
    with threads, readers:
        assert readers.call(os.getpriority, os.PRIO_PROCESS, 0) == min(os.getpriority(os.PRIO_PROCESS, 0) + NICER, 19)
    threads, readers = make_readers(1, torch.device("meta"))
    with threads, readers:
        assert readers.call(os.getpriority, os.PRIO_PROCESS, 0) == os.getpriority(os.PRIO_PROCESS, 0)
