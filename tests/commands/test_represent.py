from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from slpd_toolkit.commands import represent
from slpd_toolkit.config.represent import RepresentConfig
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.hdf5_reader import describe_hdf5, read_hdf5
from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.descriptors.descriptor import ChosenDescriptor
from slpd_toolkit.representations.region_embeddings import embed_regions
from slpd_toolkit.representations.slide_vectors import SlideVectors
from slpd_toolkit.representations.vector_files import is_own_file, read_vectors_back
from slpd_toolkit.store.token_file import TokenFile, TokenStore
from tests.cohorts import write_manifest
from tests.mutation import mutants
from tests.token_factory import LENGTHS, write_cache

if TYPE_CHECKING:
    from pathlib import Path

IDS = [f"slide{number:03}" for number in range(len(LENGTHS))]
PATIENTS = ["P/0", "P1", "P/0", "P2", "P1"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"slide_id": slide, "patient_id": patient, "split": "test" if patient == "P2" else "train"}
        for slide, patient in zip(IDS, PATIENTS, strict=True)
    ]
    return write_manifest(tmp_path_factory.mktemp("manifest") / "cohort.csv", rows)


@pytest.fixture(scope="module")
def regions(cache: Path) -> Bags:
    found = embed_regions(TokenStore.open(cache), "mean-tokens", device="cpu")
    return Bags.pack({slide: found[slide] for slide in found.slide_ids})


def config(cache: Path, out: Path, **more: Any) -> RepresentConfig:
    return RepresentConfig(**{"model": "mean-tokens", "cache": cache, "out": out, "device": "cpu", **more})


def test_a_parquet_file_holds_one_row_per_slide_and_on_whom_it_was_fitted(
    cache: Path, manifest: Path, regions: Bags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "h.parquet"
    made = config(cache, out, as_="histogram", clusters=3, manifest=manifest, fit_where=("split=train",), seed=5)
    assert represent.run(made) == 0
    table = pd.read_parquet(out)
    expected = ChosenDescriptor("histogram", 3).apply(regions, np.array([0, 1, 2, 4]), 5).features
    assert table["slide_id"].tolist() == IDS
    np.testing.assert_array_equal(table.drop(columns="slide_id").to_numpy(), expected)
    back = read_vectors_back(out)
    assert back.fitted_on == ("slide000", "slide001", "slide002", "slide004")
    assert back.parameters["centroids"].shape == (3, 8)
    assert back.provenance["descriptor"] == "histogram"
    assert back.provenance["seed"] == 5
    assert "fitted on 4 slides, 4 of which it describes" in capsys.readouterr().err.replace("\n", " ")


def test_a_patient_is_described_over_all_regions_of_its_slides(
    cache: Path, manifest: Path, regions: Bags, tmp_path: Path
) -> None:
    vectors = represent.make(config(cache, tmp_path / "p.parquet", as_="mean-sd", per="patient", manifest=manifest))
    assert vectors.bags.slides == ("P/0", "P1", "P2")
    joined = np.concatenate([regions.features[regions.regions_of(np.array([index]))] for index in (0, 2)])
    np.testing.assert_allclose(vectors["P/0"][0], [*joined.mean(axis=0), *joined.std(axis=0)], rtol=1e-4, atol=1e-6)
    assert pd.read_parquet(tmp_path / "p.parquet")["patient_id"].tolist() == ["P/0", "P1", "P2"]
    with pytest.raises(KeyError, match="slide000"):
        vectors["slide000"]


def test_the_mean_token_of_a_patient_is_that_of_all_its_regions(cache: Path, manifest: Path, tmp_path: Path) -> None:
    made = config(cache, tmp_path / "p.parquet", per="patient", manifest=manifest, append_mean_token=True)
    store = TokenStore.open(cache)
    both = np.concatenate([store[slide].tokens.reshape(-1, 8).astype(float) for slide in ("slide000", "slide002")])
    np.testing.assert_allclose(represent.make(made)["P/0"][0, 8:], both.mean(axis=0), rtol=1e-5, atol=1e-6)
    with pytest.raises(UsageError, match="got --as prototypes, allowed: descriptors that are one vector"):
        represent.make(config(cache, tmp_path / "s.parquet", as_="prototypes", append_mean_token=True))


@pytest.mark.parametrize("suffix", [".parquet", ""])
def test_sets_are_read_back_as_they_were_written(cache: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"sets{suffix}"
    made = represent.make(config(cache, out, as_="prototypes", clusters=4))
    assert is_own_file(out)
    back = read_vectors_back(out)
    assert (back.bags.slides, back.per, back.descriptor, back.is_set) == (made.bags.slides, "slide", "prototypes", True)
    assert back.bags.sizes.tolist() == [4, 3, 4, 4, 4]
    np.testing.assert_array_equal(back.bags.features, made.bags.features)
    np.testing.assert_array_equal(back.weights, made.weights)


def test_a_folder_has_the_layout_of_trident_s_slide_features(cache: Path, tmp_path: Path) -> None:
    made = represent.make(config(cache, tmp_path / "vectors", as_="mixture", clusters=2))
    file = tmp_path / "vectors" / "slide001.h5"
    assert describe_hdf5(file).datasets["features"].attributes == {"name": "slide001"}
    np.testing.assert_array_equal(read_hdf5(file, "features"), made["slide001"][0])
    assert json.loads((tmp_path / "vectors" / "about.json").read_text())["fitted_on"] == IDS
    assert read_vectors_back(tmp_path / "vectors").parameters["means"].shape == (2, 8)


@pytest.mark.slow
def test_anndata_has_one_observation_per_slide(cache: Path, tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    made = represent.make(config(cache, tmp_path / "sets.h5ad", as_="prototypes"))
    table = anndata.read_h5ad(tmp_path / "sets.h5ad")
    assert table.obs["slide_id"].tolist() == IDS
    np.testing.assert_allclose(table.X, made.bags.mean(), rtol=1e-6)
    np.testing.assert_allclose(table.obsm["weights"].sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(table.obsm["prototypes"][1].reshape(4, 8)[:3], made["slide001"])
    represent.make(config(cache, tmp_path / "m.h5ad", as_="transport"))
    assert anndata.read_h5ad(tmp_path / "m.h5ad").uns["slpd"]["fitted_on"].tolist() == IDS


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"as_": "mean", "clusters": 3}, "--clusters: got 3, allowed: nothing, because mean has no prototypes"),
        ({"fit_where": ("split=train",)}, "--fit-where: got split=train, allowed: nothing, because mean is not fitted"),
        ({"out": "absent/x.parquet"}, r"--out: got .*allowed: a \.parquet file in a folder that exists"),
        ({"per": "patient", "out": "folder"}, "'P/0' cannot be a file name"),
    ],
)
def test_what_cannot_be_is_told(
    cache: Path, manifest: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    out = tmp_path / str(changes.get("out", "x.parquet"))
    with pytest.raises(UsageError, match=said):
        represent.run(config(cache, manifest=manifest, **{**changes, "out": out}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"as_": "histgram"}, "Did you mean histogram"),
        ({"fit_where": ("a=b",)}, "--fit-where: got a=b, allowed: only with --manifest"),
        ({"out": "x.csv"}, r"--out: got .*x\.csv, allowed: a \.parquet or \.h5ad"),
    ],
)
def test_wrong_settings_are_told_before_anything_is_read(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        config(tmp_path, **{"out": tmp_path / str(changes.pop("out", "x.parquet")), **changes})


def test_damaged_outputs_are_refused(cache: Path, tmp_path: Path) -> None:
    represent.make(config(cache, tmp_path / "sets", as_="prototypes"))
    (tmp_path / "sets" / "about.json").write_text('{"per": "slide"}')
    with pytest.raises(UsageError, match=r"cannot be read as slide vectors .*fitted_on"):
        read_vectors_back(tmp_path / "sets")
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    assert not is_own_file(tmp_path / "x.parquet")


def test_patients_come_from_the_manifest_that_the_cache_was_embedded_from(
    cache: Path, manifest: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--per: got patient, allowed: slide, because the patients are not known"):
        represent.make(config(cache, tmp_path / "x.parquet", per="patient"))
    own = write_cache(tmp_path / "cache", LENGTHS, grid=2, recipe=json.dumps({"manifest": str(manifest)}))
    assert len(represent.make(config(own, tmp_path / "x.parquet", per="patient"))) == 3
    gone = write_cache(tmp_path / "gone", LENGTHS, grid=2, recipe=json.dumps({"manifest": "gone.csv"}))
    with pytest.raises(UsageError, match=r"gone\.csv, from which the cache was embedded, does not exist"):
        represent.make(config(gone, tmp_path / "x.parquet", per="patient"))


def test_a_folder_is_replaced_as_a_whole_and_never_mixed(cache: Path, manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "vectors"
    represent.make(config(cache, out, as_="histogram", clusters=2))
    represent.make(config(cache, out, manifest=manifest, where=("split=test",)))
    assert sorted(path.name for path in out.iterdir()) == ["about.json", "slide003.h5"]
    assert SlideVectors.read(out).bags.slides == ("slide003",)
    (out / "about.json").unlink()
    with pytest.raises(UsageError, match=r"has \.h5 files that `slpd represent` did not write"):
        represent.make(config(cache, out))


@pytest.mark.slow
@pytest.mark.parametrize("out", ["v.parquet", "v"])
def test_mutants_are_refused_or_equal(cache: Path, tmp_path: Path, out: str) -> None:
    target = tmp_path / out
    represent.run(RepresentConfig(model="mean-tokens", cache=cache, out=target))
    whole = read_vectors_back(target)
    for path in [target] if target.is_file() else sorted(target.iterdir()):
        content, refused = path.read_bytes(), 0
        for mutant in mutants(content, 12, seed=8):
            path.write_bytes(mutant)
            try:
                found = read_vectors_back(target)
            except UsageError:
                refused += 1
                continue
            assert found.bags.slides == whole.bags.slides
            np.testing.assert_array_equal(found.bags.features, whole.bags.features)
            assert found.provenance == whole.provenance
        assert refused
        path.write_bytes(content)


@pytest.mark.parametrize(("name", "listed"), [("v.parquet", "v.parquet.failures.csv"), ("v", "v/failures.csv")])
def test_damaged_token_files_are_listed_and_the_others_described(tmp_path: Path, name: str, listed: str) -> None:
    folder = write_cache(tmp_path / "cache", LENGTHS)
    sound = represent.make(config(folder, tmp_path / "all.parquet"))
    (folder / "slide000.h5").write_bytes(b"not HDF5")
    content = bytearray((folder / "slide003.h5").read_bytes())
    content[TokenFile.open(folder / "slide003.h5").tokens_offset + 3] ^= 1  # a token
    (folder / "slide003.h5").write_bytes(content)
    assert represent.run(config(folder, tmp_path / name)) == 1
    table = pd.read_csv(tmp_path / listed)
    assert table["slide_id"].tolist() == ["slide000", "slide003"]
    back = read_vectors_back(tmp_path / name)
    assert sorted(back.bags.slides) == ["slide001", "slide002", "slide004"]
    np.testing.assert_array_equal(back["slide002"], sound["slide002"])
    write_cache(folder, LENGTHS)
    assert represent.run(config(folder, tmp_path / "w.parquet")) == 0
    assert not (tmp_path / "w.parquet.failures.csv").exists()
