from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import torch

from slpd_toolkit.core.errors import CacheError
from slpd_toolkit.core.failures import Failure, FailureLog
from slpd_toolkit.store import schema
from slpd_toolkit.store.token_file import TokenFile, TokenStore, token_paths
from tests.cohorts import token_meta, write_token_file

if TYPE_CHECKING:
    from collections.abc import Callable


def test_what_was_written_is_read(tmp_path: Path) -> None:
    expected = write_token_file(tmp_path / "s0.h5", regions=5, encoder="timm:any?x=1", mean=(0.1, 0.2, 0.3))
    file = TokenFile.open(tmp_path / "s0.h5")
    assert file.meta == token_meta(encoder="timm:any?x=1", mean=(0.1, 0.2, 0.3))
    assert len(file) == 5
    assert np.array_equal(file.tokens, expected)
    assert file.coords[1].tolist() == [1024, 1536]
    assert file.tissue.dtype == np.float16
    assert file.meta.grid == 4


def test_types_survive_the_file(tmp_path: Path) -> None:
    write_token_file(tmp_path / "s0.h5")
    read, wanted = TokenFile.open(tmp_path / "s0.h5").meta, token_meta()
    assert {name: type(value) for name, value in vars(read).items()} == {
        name: type(value) for name, value in vars(wanted).items()
    }


def test_reading_tokens_copies_nothing(tmp_path: Path) -> None:
    write_token_file(tmp_path / "s0.h5")
    store = TokenStore.open(tmp_path)
    region = store.region(0, 1)
    whole = store.files[0].tokens
    assert isinstance(whole, np.memmap)
    assert np.shares_memory(region, whole)
    assert region.ctypes.data == whole.ctypes.data + region.nbytes
    tensor = torch.from_numpy(region)  # warns, hence fails, where the array may not be written to
    assert tensor.data_ptr() == region.ctypes.data
    tensor[0] = 7
    assert not np.array_equal(TokenFile.open(tmp_path / "s0.h5").tokens[1], region)  # the file stays as it was


def test_a_cache_in_its_order(tmp_path: Path) -> None:
    for regions, name in [(2, "b"), (1, "a"), (0, "c")]:
        write_token_file(tmp_path / f"{name}.h5", regions=regions)
    (tmp_path / ".d.h5").write_bytes(b"unfinished")
    (tmp_path / ".d.h5.abcdefgh.tmp").write_bytes(b"unfinished")
    (tmp_path / "failures.csv").write_text("")
    store = TokenStore.open(tmp_path)
    assert store.slide_ids == ("a", "b", "c")
    assert store.lengths.tolist() == [1, 2, 0]
    assert (store.grid, store.embedding_dim) == (4, 8)
    assert [path.name for path in token_paths(tmp_path)] == ["a.h5", "b.h5", "c.h5"]


def test_slides_of_a_cache_are_a_table(tmp_path: Path) -> None:
    write_token_file(tmp_path / "a.h5", regions=2, mpp_l0=0.25)
    write_token_file(tmp_path / "b.h5", regions=0)
    store = TokenStore.open(str(tmp_path))
    table = store.slides
    assert table["slide_id"].tolist() == ["a", "b"] == [file.meta.slide_id for file in store.files]
    assert table["regions"].tolist() == [2, 0]
    assert table["mpp_l0"].tolist() == [0.25, token_meta().mpp_l0]
    assert table["tissue"][0] == pytest.approx(float(store["a"].tissue.astype(float).mean()))
    assert np.isnan(table["tissue"][1])
    assert set(table["encoder"]) == {"random"}
    assert len(store) == 2
    with pytest.raises(KeyError, match="nobody"):
        store["nobody"]


def test_a_cache_that_was_opened_is_a_path(tmp_path: Path) -> None:
    write_token_file(tmp_path / "a.h5")
    store = TokenStore.open(tmp_path)
    assert Path(store) == tmp_path
    assert TokenStore.open(store).slide_ids == ("a",)
    with pytest.raises(TypeError, match="not opened from a folder"):
        Path(TokenStore(store.files))


def test_failures_of_all_shards_are_a_table(tmp_path: Path) -> None:
    write_token_file(tmp_path / "a.h5")
    store = TokenStore.open(tmp_path)
    assert store.failures.empty
    for shard, slide_id in enumerate("bc", start=1):
        FailureLog(tmp_path / f"failures.{shard}-of-2.csv").add(Failure("embed", slide_id, "", "Broken.", "Mend it."))
    assert store.failures.to_dict("list") == {
        "stage": ["embed"] * 2,
        "slide_id": ["b", "c"],
        "path": [""] * 2,
        "error": ["Broken."] * 2,
        "hint": ["Mend it."] * 2,
    }


def test_an_absent_or_empty_cache_is_named(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"none does not exist"):
        TokenStore.open(tmp_path / "none")
    with pytest.raises(CacheError, match=r"has no token file \(\*\.h5\)") as caught:
        TokenStore.open(tmp_path)
    assert "slpd embed" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoder": "hipt"}, "encoder: 'hipt' there, 'random' here"),
        ({"encoder_sha256": "a" * 64}, "encoder_sha256"),
        ({"encoder_input_px": 224}, "encoder_input_px: 224 there, 64 here"),
        ({"embedding_dim": 9}, "embedding_dim: 9 there, 8 here"),
        ({"mean": (0.1, 0.1, 0.1)}, r"mean: \(0\.1, 0\.1, 0\.1\) there"),
        ({"std": (0.1, 0.1, 0.1)}, r"std: \(0\.1, 0\.1, 0\.1\) there"),
        ({"precision": "bf16"}, "precision: 'bf16' there, 'fp32' here"),
        ({"target_mpp": 0.6}, "target_mpp: 0.6 there, 0.5 here"),
        ({"patch_px": 32, "region_px": 128}, "patch_px: 32 there, 64 here, region_px: 128 there, 256 here"),
    ],
)
def test_files_that_do_not_belong_together_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    write_token_file(tmp_path / "a.h5")
    write_token_file(tmp_path / "b.h5", 3, 0, **changes)
    with pytest.raises(CacheError, match=rf"b\.h5 does not match .*a\.h5: .*{said}"):
        TokenStore.open(tmp_path)


def test_a_copy_of_a_slide_under_another_name_is_refused(tmp_path: Path) -> None:
    write_token_file(tmp_path / "a.h5")
    shutil.copy(tmp_path / "a.h5", tmp_path / "b.h5")
    with pytest.raises(CacheError, match=r"b\.h5 and .*a\.h5 both belong to slide 'a'") as caught:
        TokenStore.open(tmp_path)
    assert "remove the copy" in caught.value.hint


def test_slides_may_differ_in_what_is_a_slide_s_own(tmp_path: Path) -> None:
    write_token_file(tmp_path / "a.h5")
    own: dict[str, Any] = {
        "mpp_l0": 0.5,
        "effective_mpp": 0.4999,
        "region_l0": 256,
        "slide_width_l0": 7,
        "toolkit_version": "9",
        "recipe": "{}",
    }
    own |= {"upsampling": 1.2, "min_tissue": 0.5, "slide_fingerprint": "x"}
    write_token_file(tmp_path / "b.h5", 3, 0, **own)
    assert len(TokenStore.open(tmp_path).files) == 2


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "s0.h5"
    write_token_file(path, regions=9)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CacheError, match=r"s0\.h5") as caught:
        TokenFile.open(path)
    assert "slpd embed" in caught.value.hint


def without(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]

    return change


def with_dataset(name: str, **keywords: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, **keywords)

    return change


def with_attribute(name: str, value: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if value is None:
            del file.attrs[name]
        else:
            file.attrs[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_attribute("schema", "other"), "not a token file: schema 'other' 2, expected 'slpd-tokens' 1 or 2"),
        (with_attribute("schema_version", 3), "token file of version 3; this slpd_toolkit reads 1 or 2"),
        (with_attribute("schema_version", True), "not a token file: schema 'slpd-tokens' True"),
        (with_attribute("schema_version", 2.0), "not a token file: schema 'slpd-tokens' 2.0"),
        (with_attribute("schema", None), "schema None"),
        (with_attribute("mpp_l0", None), "lacks the attributes mpp_l0"),
        (without("tokens"), "cannot be read as a token file"),
        (without("coords"), "cannot be read as a token file"),
        (with_dataset("tokens", shape=(3, 4, 4, 9), dtype="<f2"), r"tokens \(3, 4, 4, 9\)"),
        (
            with_dataset("tokens", shape=(2, 4, 4, 8), dtype="<f2"),
            r"tokens \(2, 4, 4, 8\) float16, expected \(3, 4, 4, 8\)",
        ),
        (with_dataset("tokens", shape=(3, 4, 4, 8), dtype="<f4"), "float32"),
        (with_dataset("tokens", shape=(3, 4, 4, 8), dtype="<f2", chunks=(1, 4, 4, 8)), "not stored contiguously"),
        (with_dataset("coords", shape=(3, 3), dtype="<i8"), r"coords \(3, 3\)"),
        (with_dataset("tissue", shape=(3, 4, 5), dtype="<f2"), r"tissue \(3, 4, 5\)"),
        (with_attribute("patch_px", 0), "s0"),
        (with_attribute("embedding_dim", "wide"), "s0"),
        (with_dataset("coords", data="text"), "s0"),
        (with_dataset("tokens", data=0.5), "s0"),
    ],
)
def test_a_file_that_breaks_the_contract_is_refused(
    tmp_path: Path, change: Callable[[h5py.File], None], said: str
) -> None:
    write_token_file(tmp_path / "s0.h5")
    with h5py.File(tmp_path / "s0.h5", "r+") as file:
        change(file)
    with pytest.raises(CacheError, match=said) as caught:
        TokenFile.open(tmp_path / "s0.h5")
    assert "s0.h5" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"text", b"\x89HDF\r\n\x1a\n" + bytes(64)])
def test_what_is_no_hdf5_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s0.h5").write_bytes(content)
    with pytest.raises(CacheError, match=r"s0\.h5 cannot be read as a token file"):
        TokenFile.open(tmp_path / "s0.h5")


def test_a_flipped_bit_where_the_file_begins_is_harmless_or_a_cache_error(tmp_path: Path) -> None:
    """In the superblock; elsewhere a flipped bit can make HDF5 itself search endlessly."""
    path = tmp_path / "s0.h5"
    write_token_file(path)
    whole, refused = path.read_bytes(), 0
    for position in range(48):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            TokenFile.open(path)
        except CacheError:
            refused += 1
    assert refused > 20


def test_a_file_that_vanishes_after_opening_is_a_cache_error(tmp_path: Path) -> None:
    write_token_file(tmp_path / "s0.h5")
    file = TokenFile.open(tmp_path / "s0.h5")
    (tmp_path / "s0.h5").unlink()
    with pytest.raises(CacheError, match=r"s0\.h5: tokens cannot be memory-mapped"):
        _ = file.tokens


def test_disagreement_names_every_attribute_with_both_values() -> None:
    said = schema.disagreement(token_meta(encoder="hipt", patch_px=32), token_meta(), schema.RUN_FIELDS)
    assert said == "encoder: 'hipt' there, 'random' here, patch_px: 32 there, 64 here"
    assert schema.disagreement(token_meta(slide_id="other"), token_meta(), schema.RUN_FIELDS) == ""
    assert "min_tissue" in schema.RUN_FIELDS
    assert "min_tissue" not in schema.COHORT_FIELDS
