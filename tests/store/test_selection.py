"""Part of a cache, selected by a manifest: training, exporting and resuming."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from slpd_toolkit.commands import export, pretrain
from slpd_toolkit.config.export import ExportConfig
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import write_csv
from slpd_toolkit.store.selection import select_slides
from slpd_toolkit.store.token_file import TokenStore
from tests.cohorts import read_csv
from tests.token_factory import write_cache
from tests.training.runs import assert_same_run, tiny

if TYPE_CHECKING:
    from pathlib import Path

LENGTHS = (9, 3, 6, 7, 5, 8)
PARTS = ("train", "test", "train", "train", "test", "train")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return write_cache(tmp_path / "cache", LENGTHS, grid=2)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = [{"slide_id": f"slide{number:03}", "part": part} for number, part in enumerate(PARTS)]
    write_csv(tmp_path / "m.csv", ["slide_id", "part"], [*rows, {"slide_id": "never", "part": "train"}])
    return tmp_path / "m.csv"


@pytest.mark.slow
def test_training_on_a_part_equals_training_on_a_cache_of_that_part(
    cache: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    for number, part in enumerate(PARTS):
        if part == "train":
            shutil.copy(cache / f"slide{number:03}.h5", alone)
    changes = {"global_side": 2, "local_side": 1, "epochs": 2, "neighbours": 2}
    selected = tiny(cache, tmp_path / "part", manifest=manifest, where=("part=train",), **changes)
    assert pretrain.run(selected) == 0
    assert "1 of 5 selected slides is not in the cache: never" in " ".join(capsys.readouterr().err.split())
    assert pretrain.run(tiny(alone, tmp_path / "whole", **changes)) == 0
    assert_same_run(selected.out, tmp_path / "whole")
    assert [row["slide_id"] for row in read_csv(selected.out / "slides.csv")] == [
        path.stem for path in sorted(alone.glob("*.h5"))
    ]
    with pytest.raises(UsageError, match="contains a run with other settings: cohort"):
        pretrain.run(tiny(cache, selected.out, **changes))
    assert pretrain.run(tiny(alone, selected.out, **changes)) == 0  # the same slides, named in another way


def test_export_of_a_part(cache: Path, manifest: Path, tmp_path: Path) -> None:
    config = ExportConfig(source=cache, out=tmp_path / "out", to="trident", manifest=manifest, where=("part!=train",))
    assert export.run(config) == 0
    assert {path.stem for path in (tmp_path / "out").rglob("*.h5")} == {"slide001", "slide004"}


def test_a_manifest_of_other_slides_is_refused(cache: Path, tmp_path: Path) -> None:
    write_csv(tmp_path / "other.csv", ["slide_id"], [{"slide_id": "TCGA-1"}])
    with pytest.raises(UsageError, match=r"None of the selected slides \(1\) .* has TCGA-1, the cache has slide000"):
        select_slides(TokenStore.open(cache), tmp_path / "other.csv", ())


def test_conditions_need_a_manifest(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--where: got part=train, allowed: only with --manifest"):
        tiny(cache, tmp_path / "run", where=("part=train",))
