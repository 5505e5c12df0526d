"""Stain views of a cache: tokens stay as they are, each view is that of its stain, views are added and resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from slpd_toolkit.commands import embed
from slpd_toolkit.commands import inspect as inspection
from slpd_toolkit.config.embed import EmbedConfig
from slpd_toolkit.config.inspect import InspectConfig
from slpd_toolkit.core.errors import CacheError, UsageError
from slpd_toolkit.encoders.registry import make_encoder
from slpd_toolkit.encoders.stain import stain_of_view
from slpd_toolkit.ingest.embedding import pipeline
from slpd_toolkit.slides.guarded_slide import GuardedSlide
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.stain_folders import stain_folder
from slpd_toolkit.store.stain_views import MeanOfStains, StainTokens, open_stain_views
from slpd_toolkit.store.token_file import TokenStore
from tests.cohorts import mean_colour_encoder, read_csv, small_config, write_cohort
from tests.encoders.test_stain import twin_of_matrix

if TYPE_CHECKING:
    from pathlib import Path

    from slpd_toolkit.encoders.encoder import Encoder
    from slpd_toolkit.ingest.embedding.block_key import BlockKey
    from slpd_toolkit.slides.plan import BlockPixels

Recorded = list[tuple["BlockKey", np.ndarray]]


@pytest.fixture(autouse=True)
def mean_color(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(name: str, **settings: Any) -> Encoder:
        return mean_colour_encoder(name, **settings | {"seed": 0})

    monkeypatch.setattr(embed, "make_encoder", make)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """Record what each encoder gets: where patches belong, and their pixels."""
    found: Recorded = []
    store = pipeline._store_certain

    def record(*given: Any) -> tuple[BlockKey, np.ndarray]:
        key, patches = store(*given)
        found.append((key, patches.copy()))
        return key, patches

    monkeypatch.setattr(pipeline, "_store_certain", record)
    return found


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.h5"))}


@pytest.mark.slow
def test_tokens_are_bit_equal_and_views_are_those_of_their_stain(
    tmp_path: Path, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, out = write_cohort(tmp_path, 2), tmp_path / "cache"
    reads: list[int] = []
    read = GuardedSlide.read_block

    def counted(self: GuardedSlide, *given: Any) -> BlockPixels:
        reads.append(1)
        return read(self, *given)

    monkeypatch.setattr(GuardedSlide, "read_block", counted)
    assert embed.run(small_config(manifest, out)) == 0
    plain, blocks = bytes_of(out), len(reads)
    for path in out.glob("*.h5"):
        path.unlink()
    recorded.clear()
    reads.clear()
    assert embed.run(small_config(manifest, out, stain_views=2)) == 0
    assert len(reads) == blocks  # read once
    assert bytes_of(out) == plain
    store = TokenStore.open(out)
    stores = [store, *open_stain_views(store, 2)]
    checked = 0
    for key, patches in recorded:
        number = key.job.lane.identity.view
        file = stores[number][key.reading.entry.slide_id]
        stained = patches.astype(np.float64)
        if number:
            change = stain_of_view(number, file.meta.slide_id, 0)
            assert json.loads(file.meta.stain)["matrix"] == [list(row) for row in change.matrix]
            stained = np.clip(np.rint(twin_of_matrix(patches, np.array(change.matrix))), 0, 255)
        expected = mean_colour_encoder("", patch_px=patches.shape[1], seed=0).embed(
            torch.from_numpy(stained.astype(np.uint8)), "fp32"
        )
        found = file.tokens[key.region, key.rows, key.columns].astype(np.float32)
        np.testing.assert_allclose(found, expected, atol=0.07)  # float16 of up to 255
        checked += len(patches) * bool(number)
    assert checked > 50
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not np.allclose(stores[one].files[0].tokens, stores[other].files[0].tokens, atol=0.01)
        assert stores[one].files[0].header.digest != stores[other].files[0].header.digest


@pytest.mark.slow
def test_views_are_added_to_a_cache_resumed_and_refused_with_another_seed(tmp_path: Path) -> None:
    manifest, out = write_cohort(tmp_path, 2), tmp_path / "cache"
    assert embed.run(small_config(manifest, out)) == 0
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.h5")}
    with pytest.raises(UsageError, match="has no stain views, 1 needed"):
        open_stain_views(TokenStore.open(out), 1)
    assert embed.run(small_config(manifest, out, stain_views=1)) == 0
    view = out / "stain-views" / "1"
    complete = bytes_of(view)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.h5")} == before
    (view / "s1.h5").unlink()
    with pytest.raises(CacheError, match=r"lacks 1 of 2 slides: s1"):
        open_stain_views(TokenStore.open(out), 1)
    assert embed.run(small_config(manifest, out, stain_views=1)) == 0
    assert bytes_of(view) == complete
    assert embed.run(small_config(manifest, out, stain_views=1, seed=1)) == 1
    assert "stain" in read_csv(view / "failures.csv")[0]["error"]
    assert bytes_of(view) == complete


def test_inspect_states_views_and_their_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest, out = write_cohort(tmp_path, 1), tmp_path / "cache"
    assert embed.run(small_config(manifest, out, stain_views=2)) == 0
    capsys.readouterr()
    assert inspection.run(InspectConfig(path=out)) == 0
    assert "stain views 2, each of 1 slide," in " ".join(capsys.readouterr().out.split())
    assert inspection.run(InspectConfig(path=out / "stain-views" / "2" / "s0.h5")) == 0
    assert "view 2, changed at random per slide (seed 0)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_regions_are_read_under_all_stains_and_averaged(tmp_path: Path) -> None:
    manifest, out = write_cohort(tmp_path, 2), tmp_path / "cache"
    assert embed.run(small_config(manifest, out, stain_views=2)) == 0
    store = TokenStore.open(out)
    stores = [store, *open_stain_views(store, 2)]
    regions = np.arange(int(store.lengths.sum()))[::-1].copy()
    each = [CohortTokens(one).read(regions) for one in stores]
    found = StainTokens(store, [CohortTokens(one) for one in stores]).read(regions)
    assert torch.equal(found, torch.stack(each, dim=1))
    mean = MeanOfStains(store, [CohortTokens(one) for one in stores]).read(regions)
    torch.testing.assert_close(mean.float(), found.float().mean(dim=1), atol=1e-3, rtol=1e-3)


def test_too_many_views_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--stain-views: got 17, allowed: 0 to 16"):
        EmbedConfig(manifest=tmp_path, out=tmp_path, stain_views=17)


@pytest.mark.slow
def test_several_devices_write_the_views_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "make_encoder", make_encoder)
    manifest, out = write_cohort(tmp_path, 2), tmp_path / "cache"
    settings = {"encoder": "random:vit_tiny", "stain_views": 1}
    assert embed.run(small_config(manifest, tmp_path / "one", **settings)) == 0
    assert embed.run(small_config(manifest, out, **settings, device="cpu,cpu")) == 0
    for number in (0, 1):
        folders = [stain_folder(each, 1) if number else each for each in (tmp_path / "one", out)]
        one, two = (TokenStore.open(folder) for folder in folders)
        for first, second in zip(one.files, two.files, strict=True):
            np.testing.assert_array_equal(first.tokens.view(np.uint16), second.tokens.view(np.uint16))
            assert replace(first.meta, recipe="") == replace(second.meta, recipe="")
            assert bool(first.meta.stain) == bool(number)
