"""The commands of docs/already-have-features.md, run on files made for the folders that it names."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from slpd_toolkit.cli import app as cli
from slpd_toolkit.store.token_file import TokenStore
from tests.cohorts import write_manifest
from tests.conftest import REPOSITORY
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


PAGE = REPOSITORY / "docs" / "already-have-features.md"


def make_folders(place: Path) -> None:
    features, coords = features_of(256), lattice_of(16, 16, 512)
    write_trident(place / "job_dir/20x_256px_0px_overlap/features_uni_v1/s.h5", features, coords)
    write_atlas_patch(place / "output/patches/s.h5", coords, {"uni_v1": features, "resnet50": features[:, :3]})
    source = write_clam(place / "clam", "s", features, coords, downsample=(2.0, 2.0))
    (place / "features").mkdir()
    source.rename(place / "features/h5_files")
    (place / "clam/results").rename(place / "results")
    write_manifest(place / "cohort.csv", [{"slide_id": "s", "slide_path": "s.svs", "mpp": 0.25}])
    write_stamp(place / "output/ctranspath-7c998680/s.h5", features, coords / 512 * 224)
    about: dict[str, object] = {"slide": {"base_spacing_um": 0.25}, "tiling": {"tile_size_lv0": 8192}}
    write_slide2vec(place / "run", "s", features.reshape(1, 256, 8), np.zeros((1, 2)), about=about)
    (place / "vits_tokens").mkdir()
    torch.save(torch.from_numpy(features), place / "vits_tokens/s_0_0.pt")


@pytest.mark.slow
def test_every_command_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    commands = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert len(commands) == 14
    for command in commands:
        if command[1] == "pretrain":
            continue  # tests/commands/test_pretrain.py
        done = CliRunner().invoke(cli.app, command[1:])
        assert done.exit_code == 0, (command, done.output)
    for folder in (
        "cache",
        "cache-trident",
        "cache-atlas-patch",
        "cache-clam",
        "cache-stamp",
        "cache-slide2vec",
        "cache-hipt",
    ):
        (slide,) = TokenStore.open(tmp_path / folder).files
        assert np.array_equal(slide.tokens.reshape(256, 8), features_of(256)), folder
        assert slide.coords.tolist() == [[0, 0]]
    for path in ("tokens/s.pt", "job/features_uni_v1/s.h5", "job/features_slpd-mean-tokens/s.h5", "regions.h5ad"):
        assert (tmp_path / path).is_file(), path
