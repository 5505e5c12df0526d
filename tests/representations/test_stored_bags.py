from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from slpd_toolkit.representations.stored_bags import StoredBags
from slpd_toolkit.store.token_file import TokenStore
from tests.token_factory import write_cache, write_slide

if TYPE_CHECKING:
    from pathlib import Path

    from slpd_toolkit.store.token_file import TokenFile


@pytest.fixture
def files(tmp_path: Path) -> dict[str, TokenFile]:
    return {each.meta.slide_id: each for each in TokenStore.open(write_cache(tmp_path / "cache", (3, 2))).files}


def bags() -> dict[str, np.ndarray]:
    return {"slide000": np.ones((3, 4), np.float32), "slide001": np.full((2, 4), 2, np.float32)}


def test_what_was_kept_comes_back_and_more_is_added(tmp_path: Path, files: dict[str, TokenFile]) -> None:
    path = tmp_path / "kept" / "a.h5"
    StoredBags(path, "digest").add({"slide001": bags()["slide001"]}, files)
    assert StoredBags(path, "digest").get(files["slide000"]) is None
    StoredBags(path, "digest").add({"slide000": bags()["slide000"]}, files)
    again = StoredBags(path, "digest")
    for slide, bag in bags().items():
        np.testing.assert_array_equal(again.get(files[slide]), bag)


def test_another_model_or_other_tokens_have_nothing_there(tmp_path: Path, files: dict[str, TokenFile]) -> None:
    path = tmp_path / "a.h5"
    StoredBags(path, "digest").add(bags(), files)
    assert StoredBags(path, "other").get(files["slide000"]) is None
    os.utime(files["slide000"].path, ns=(1, 1))
    assert StoredBags(path, "digest").get(files["slide000"]) is None
    write_slide(tmp_path / "cache", "slide001", np.zeros((2, 6, 6, 8)))
    assert StoredBags(path, "digest").get(files["slide001"]) is None


@pytest.mark.parametrize("content", [b"", b"broken", b"\x89HDF\r\n\x1a\n" + bytes(2000)])
def test_a_damaged_file_is_replaced(tmp_path: Path, files: dict[str, TokenFile], content: bytes) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    (tmp_path / ".a.h5.12345678.tmp").touch()
    stored = StoredBags(path, "digest")
    assert stored.get(files["slide000"]) is None
    stored.add(bags(), files)
    np.testing.assert_array_equal(StoredBags(path, "digest").get(files["slide000"]), bags()["slide000"])
    assert not (tmp_path / ".a.h5.12345678.tmp").exists()
