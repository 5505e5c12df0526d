"""Tokens and embeddings for other tools, read by the rules of those tools, reimplemented here from their layouts."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from slpd_toolkit.commands import export, import_features
from slpd_toolkit.config.export import ExportConfig
from slpd_toolkit.config.import_features import ImportConfig
from slpd_toolkit.config.region_vit import RegionViTConfig
from slpd_toolkit.core.errors import CacheError, UsageError
from slpd_toolkit.core.folder_lock import working_in
from slpd_toolkit.models.region_vit import RegionViT
from slpd_toolkit.store.token_file import TokenFile, TokenStore
from slpd_toolkit.store.writer import TokenWriter
from tests.cohorts import token_meta, write_token_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    Array = npt.NDArray[Any]

GRID, WIDTH = 4, 8


def write_gappy(path: Path, seed: int = 0, regions: int = 5, **changes: Any) -> tuple[Array, Array]:
    """Write a token file with missing patches but no empty region; return its tokens and which of them are present."""
    rng = np.random.default_rng(seed)
    present = rng.random((regions, GRID, GRID)) < 0.7
    present[:, 0, 0] = True
    tokens = np.where(present[..., None], rng.standard_normal((regions, GRID, GRID, WIDTH)), 0).astype(np.float16)
    meta = token_meta(slide_id=path.stem, **changes)
    coords = np.stack([np.arange(regions) % 2, np.arange(regions) // 2], axis=1).astype(np.int64) * meta.region_l0
    with TokenWriter(path, meta, coords, present.astype(np.float32), present) as writer:
        for region in range(regions):
            rows, columns = np.nonzero(present[region])
            writer.put(region, rows, columns, tokens[region, rows, columns].astype(np.float32))
    return tokens, present


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Two slides, one of them with missing patches."""
    folder = tmp_path / "cache"
    folder.mkdir()
    write_token_file(folder / "whole.h5", regions=3, target_mpp=1.0)  # 64-px patches that are 128 px at 0.5 um/px
    write_gappy(folder / "gappy.h5", target_mpp=1.0)
    return folder


def to(cache: Path, kind: Any, out: Path, **changes: Any) -> Path:
    assert export.run(ExportConfig(source=cache, out=out, to=kind, device="cpu", precision="fp32", **changes)) == 0
    return out


def same(one: TokenFile, other: TokenFile) -> None:
    assert np.array_equal(one.tokens, other.tokens)
    assert np.array_equal(one.coords, other.coords)
    assert np.array_equal(one.present is None, other.present is None)
    if one.present is not None and other.present is not None:
        assert np.array_equal(one.present, other.present)
    assert one.meta.region_l0 == other.meta.region_l0
    assert one.meta.mpp_l0 == other.meta.mpp_l0


def imported(source: Path, out: Path, **changes: Any) -> Sequence[TokenFile]:
    assert import_features.run(ImportConfig(source=source, out=out, min_tissue=0, region_px=256, **changes)) == 0
    return TokenStore.open(out).files


def test_trident_reads_patch_tokens_by_its_own_rule(cache: Path, tmp_path: Path) -> None:
    """`features` (N, D) and `coords` (N, 2), level-0 px; the attributes of `coords` describe the patches."""
    out = to(cache, "trident", tmp_path / "out")
    (folder,) = out.iterdir()
    assert folder.name == "features_random"
    ours = TokenFile.open(cache / "gappy.h5")
    with h5py.File(folder / "gappy.h5") as file:
        features, coords, attributes = file["features"][...], file["coords"][...], dict(file["coords"].attrs)
    assert (features.dtype, coords.dtype) == (np.float32, np.int64)
    side = attributes["patch_size_level0"]
    assert (side, attributes["patch_size"], attributes["overlap"], attributes["name"]) == (128, 64, 0, "gappy")
    assert (attributes["level0_magnification"], attributes["target_magnification"]) == (20, 10)
    assert (attributes["level0_width"], attributes["level0_height"]) == (100_000, 80_000)
    assert ours.present is not None
    assert len(features) == ours.present.sum()
    for feature, (x, y) in zip(features, coords, strict=True):
        (region,) = np.flatnonzero(((ours.coords <= (x, y)) & ((x, y) < ours.coords + 512)).all(axis=1))
        column, row = (np.array([x, y]) - ours.coords[region]) // side
        assert np.array_equal(feature, ours.tokens[region, row, column])


def test_tokens_come_back_from_trident_s_files(cache: Path, tmp_path: Path) -> None:
    (folder,) = to(cache, "trident", tmp_path / "out").iterdir()
    back = imported(folder, tmp_path / "back")
    assert [slide.meta.slide_id for slide in back] == ["gappy", "whole"]
    for slide in back:
        assert slide.meta.encoder == "random"
        same(slide, TokenFile.open(cache / slide.path.name))


@pytest.mark.parametrize("per", ["slide", "region"])
def test_tokens_come_back_from_hipt_s_files(tmp_path: Path, per: str) -> None:
    (tmp_path / "cache").mkdir()
    write_token_file(tmp_path / "cache" / "s.h5", regions=3)
    out = to(tmp_path / "cache", "hipt", tmp_path / "out", per=per)
    ours = TokenFile.open(tmp_path / "cache" / "s.h5")
    paths = sorted(out.glob("*.pt"))
    read = [torch.load(path, weights_only=True) for path in paths]
    if per == "slide":
        assert [path.name for path in paths] == ["s.pt"]
        assert read[0].shape == (3, 16, 8)
        rebuilt = read[0].unfold(1, GRID, GRID).transpose(2, 3)  # HIPT folds rows of a region out of its tokens
        assert np.array_equal(rebuilt.numpy(), ours.tokens)
    else:
        assert {path.name for path in paths} == {f"s_{x}_{y}.pt" for x, y in ours.coords.tolist()}
        assert all(tokens.shape == (16, 8) and tokens.dtype == torch.float32 for tokens in read)
    (back,) = imported(out, tmp_path / "back", encoder_name="e", mpp=ours.meta.mpp_l0, target_mpp=1.0)
    same(back, ours)


def test_missing_patches_are_said_where_a_format_cannot(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to(cache, "hipt", tmp_path / "out")
    missing = TokenFile.open(cache / "gappy.h5").missing_patches
    assert f"{missing} patches have no token" in capsys.readouterr().err


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A run folder with a region ViT for these tokens."""
    run = tmp_path / "run"
    run.mkdir()
    config = RegionViTConfig(embed_dim=12, depth=2, heads=2)
    network = RegionViT(config, torch.Generator().manual_seed(1), input_dim=WIDTH, grid=GRID)
    network.save(run / "region_vit.pt")
    return run


def embedded(cache: Path, model: Path, slide_id: str) -> Array:
    """Compute the embeddings of a slide independently."""
    slide = TokenFile.open(cache / f"{slide_id}.h5")
    present = None if slide.present is None else torch.from_numpy(slide.present)
    tokens = torch.from_numpy(np.array(slide.tokens))
    with torch.inference_mode():
        values: Array = RegionViT.from_file(model / "region_vit.pt")(tokens, present=present).numpy()
    return values


def test_trident_reads_region_embeddings_by_its_own_rule(cache: Path, model: Path, tmp_path: Path) -> None:
    (folder,) = to(cache, "trident", tmp_path / "out", model=str(model)).iterdir()
    assert folder.name == "features_slpd-run"
    for slide_id in ("gappy", "whole"):
        with h5py.File(folder / f"{slide_id}.h5") as file:
            assert np.allclose(file["features"][...], embedded(cache, model, slide_id), atol=1e-5)
            assert np.array_equal(file["coords"][...], TokenFile.open(cache / f"{slide_id}.h5").coords)
            assert file["coords"].attrs["patch_size_level0"] == 512
            assert file["coords"].attrs["patch_size"] == 256


@pytest.mark.slow
def test_anndata_of_regions(cache: Path, model: Path, tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    table = anndata.read_h5ad(to(cache, "anndata", tmp_path / "a.h5ad", model=str(model)))
    expected = np.concatenate([embedded(cache, model, slide_id) for slide_id in ("gappy", "whole")])
    assert np.allclose(table.X, expected, atol=1e-5)
    assert list(table.obs["slide_id"]) == ["gappy"] * 5 + ["whole"] * 3
    assert table.obs_names[1] == "gappy_512_0"
    assert table.obs_names.is_unique
    assert np.array_equal(table.obs[["x_l0", "y_l0"]].to_numpy() + 256, table.obsm["spatial"])
    present = TokenFile.open(cache / "gappy.h5").present
    assert present is not None
    assert np.allclose(table.obs["tissue"][:5], present.mean(axis=(1, 2)), atol=1e-3)
    about = table.uns["slpd"]
    assert (about["encoder"], about["region_px"], about["model"]) == ("random", 256, str(model / "region_vit.pt"))
    assert len(about["model_sha256"]) == 64


@pytest.mark.slow
def test_anndata_of_slides_whose_names_sort_otherwise_by_number(model: Path, tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    names = ["s0", "s1", "s10", "s2"]
    (tmp_path / "cache").mkdir()
    for name in names:
        write_token_file(tmp_path / "cache" / f"{name}.h5", regions=2)
    table = anndata.read_h5ad(to(tmp_path / "cache", "anndata", tmp_path / "a.h5ad", model=str(model)))
    assert list(table.obs["slide_id"]) == [name for name in names for _ in range(2)]


def test_anndata_and_parquet_of_slides(cache: Path, model: Path, tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    means = np.stack([embedded(cache, model, slide_id).mean(axis=0) for slide_id in ("gappy", "whole")])
    table = anndata.read_h5ad(to(cache, "anndata", tmp_path / "a.h5ad", model=str(model), per="slide"))
    assert np.allclose(table.X, means, atol=1e-5)
    assert list(table.obs_names) == ["gappy", "whole"]
    assert list(table.obs["regions"]) == [5, 3]
    assert "spatial" not in table.obsm
    frame = pd.read_parquet(to(cache, "parquet", tmp_path / "a.parquet", model=str(model)))
    assert list(frame["slide_id"]) == ["gappy", "whole"]
    assert frame.drop(columns="slide_id").shape == (2, 12)
    assert np.allclose(frame.drop(columns="slide_id").to_numpy(), means, atol=1e-5)


def test_parquet_of_regions_with_its_provenance(cache: Path, model: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = to(cache, "parquet", tmp_path / "a.parquet", model=str(model), per="region")
    frame = pd.read_parquet(path)
    assert list(frame.columns[:3]) == ["slide_id", "x_l0", "y_l0"]
    assert np.allclose(frame[[f"e{i}" for i in range(12)]].to_numpy()[5:], embedded(cache, model, "whole"), atol=1e-5)
    about = json.loads(parquet.read_schema(path).metadata[b"slpd"])
    assert about["encoder"] == "random"


def test_a_table_of_slides_is_a_model_of_mil_eval(cache: Path, model: Path, tmp_path: Path) -> None:
    from slpd_toolkit.representations.vector_tables import read_vectors

    vectors = read_vectors(to(cache, "parquet", tmp_path / "a.parquet", model=str(model)))
    assert {slide_id: vector.shape for slide_id, vector in vectors.items()} == {"gappy": (1, 12), "whole": (1, 12)}


def test_two_exports_at_once_into_one_folder(cache: Path, tmp_path: Path) -> None:
    config = ExportConfig(source=cache, to="hipt", out=tmp_path / "out")
    with working_in(tmp_path / "out", "export"), pytest.raises(UsageError, match="out is in use: `slpd export`"):
        export.run(config)
    assert export.run(config) == 0


def test_one_file_of_a_cache(cache: Path, tmp_path: Path) -> None:
    out = to(cache / "whole.h5", "parquet", tmp_path / "a.parquet", model="mean-tokens")
    frame = pd.read_parquet(out)
    slide = TokenFile.open(cache / "whole.h5")
    assert np.allclose(frame.iloc[0, 1:].to_numpy(float), slide.tokens.mean(axis=(0, 1, 2), dtype=float), atol=1e-2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"to": "parquet"}, "--model: got nothing, allowed: a region ViT or mean-tokens"),
        ({"to": "hipt", "model": "mean-tokens"}, "--model: got mean-tokens, allowed: no model"),
        ({"to": "safetensors"}, "which seems to be a token cache; allowed: hipt, trident, anndata, parquet"),
        ({"to": "parquet", "model": "untrained"}, "does not embed regions"),
        ({"to": "parquet", "model": "mean-tokens", "out": "a.csv"}, r"--out: got .*a.csv, allowed: a \.parquet file"),
        ({"to": "anndata", "model": "mean-tokens", "out": "none/a.h5ad"}, "in a folder that exists"),
    ],
)
def test_what_cannot_be_written(cache: Path, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    out = tmp_path / changes.pop("out", "a.parquet")
    with pytest.raises(UsageError, match=said):
        export.run(ExportConfig(source=cache, out=out, **changes))
    assert not out.exists()


@pytest.mark.parametrize(
    ("kind", "module", "suffix"), [("anndata", "anndata", "h5ad"), ("parquet", "pyarrow", "parquet")]
)
def test_an_extra_that_is_missing_is_named(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, module: str, suffix: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(export, "embed_regions", None)  # it is told before anything is embedded
    with pytest.raises(UsageError, match=f"--to {kind} needs {module}") as caught:
        to(cache, kind, tmp_path / f"a.{suffix}", model="mean-tokens")
    assert f"slpd-toolkit[{kind}]" in caught.value.hint
    assert not list(tmp_path.glob("*a.*"))


def test_names_from_files_are_no_paths(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    write_token_file(tmp_path / "cache" / "s.h5")
    with h5py.File(tmp_path / "cache" / "s.h5", "a") as file:
        file.attrs["slide_id"] = "../outside"
    with pytest.raises(CacheError, match=r"slide_id is '\.\./outside', allowed: letters"):
        to(tmp_path / "cache", "hipt", tmp_path / "out")
    assert not list(tmp_path.glob("outside*"))


@pytest.mark.parametrize(
    ("to", "model", "out", "listed"),
    [
        ("hipt", "", "out", "out/failures.csv"),
        ("parquet", "mean-tokens", "v.parquet", "v.parquet.failures.csv"),
        ("trident", "mean-tokens", "out", "out/failures.csv"),
    ],
)
def test_damaged_token_files_are_listed_and_the_others_written(
    tmp_path: Path, to: str, model: str, out: str, listed: str
) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    for number in range(4):
        write_gappy(folder / f"s{number}.h5", seed=number)
    (folder / "s0.h5").write_bytes(b"not HDF5")
    content = bytearray((folder / "s2.h5").read_bytes())
    content[TokenFile.open(folder / "s2.h5").tokens_offset + 3] ^= 1
    (folder / "s2.h5").write_bytes(content)
    assert export.run(ExportConfig(source=folder, to=to, out=tmp_path / out, model=model, device="cpu")) == 1  # type: ignore[arg-type]
    assert pd.read_csv(tmp_path / listed)["slide_id"].tolist() == ["s0", "s2"]
    if to == "parquet":
        assert pd.read_parquet(tmp_path / out)["slide_id"].tolist() == ["s1", "s3"]
    else:
        assert sorted({path.stem[:2] for path in (tmp_path / out).rglob("*") if path.suffix in {".pt", ".h5"}}) == [
            "s1",
            "s3",
        ]
