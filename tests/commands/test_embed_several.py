"""Several encoders in one reading: each cache as if its encoder ran alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from slpd_toolkit.commands import embed
from slpd_toolkit.config.embed import EmbedConfig, EncoderChoice
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.encoders.geometry import Geometry
from slpd_toolkit.slides.guarded_slide import GuardedSlide
from slpd_toolkit.store.token_file import TokenStore
from tests.cohorts import mean_colour_encoder, read_csv, small_config, tiny_vit_encoder, write_cohort
from tests.slide_factory import damage_tile

if TYPE_CHECKING:
    from pathlib import Path

    from slpd_toolkit.encoders.encoder import Encoder
    from slpd_toolkit.slides.plan import BlockPixels

BOTH = ("random:vit_small", "handcrafted")


@pytest.fixture(autouse=True)
def two_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(name: str, **settings: Any) -> Encoder:
        return (tiny_vit_encoder if name == "random:vit_small" else mean_colour_encoder)(name, **settings)

    monkeypatch.setattr(embed, "make_encoder", make)


def same(one: Path, two: Path) -> bool:
    first, second = TokenStore.open(one), TokenStore.open(two)
    assert first.slide_ids == second.slide_ids
    return all(
        np.array_equal(a.tokens.view(np.uint16), b.tokens.view(np.uint16)) and np.array_equal(a.tissue, b.tissue)
        for a, b in zip(first.files, second.files, strict=True)
    )


@pytest.mark.slow
def test_each_cache_is_that_of_its_encoder_alone_and_blocks_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_cohort(tmp_path, 2)
    reads: list[int] = []
    read = GuardedSlide.read_block

    def counted(self: GuardedSlide, *given: Any) -> BlockPixels:
        reads.append(1)
        return read(self, *given)

    monkeypatch.setattr(GuardedSlide, "read_block", counted)
    for name in BOTH:
        assert embed.run(small_config(manifest, tmp_path / name.replace(":", "-"), encoder=name)) == 0
    alone = len(reads)
    reads.clear()
    assert embed.run(small_config(manifest, tmp_path / "caches", encoder=BOTH)) == 0
    assert len(reads) == alone / 2
    assert sorted(path.name for path in (tmp_path / "caches").iterdir() if path.is_dir()) == [
        "handcrafted",
        "random-vit_small",
    ]
    for name in ("handcrafted", "random-vit_small"):
        assert same(tmp_path / "caches" / name, tmp_path / name)
        assert (tmp_path / "caches" / name / "qc" / "index.html").exists()

    (tmp_path / "caches" / "handcrafted" / "s1.h5").unlink()
    before = (tmp_path / "caches" / "random-vit_small" / "s1.h5").stat().st_mtime_ns
    reads.clear()
    assert embed.run(small_config(manifest, tmp_path / "caches" / "handcrafted", encoder="handcrafted")) == 0
    assert 0 < len(reads) < alone / 2
    assert same(tmp_path / "caches" / "handcrafted", tmp_path / "handcrafted")
    (tmp_path / "caches" / "handcrafted" / "s0.h5").unlink()
    assert embed.run(small_config(manifest, tmp_path / "caches", encoder=BOTH)) == 0
    assert same(tmp_path / "caches" / "handcrafted", tmp_path / "handcrafted")
    assert (tmp_path / "caches" / "random-vit_small" / "s1.h5").stat().st_mtime_ns == before


@pytest.mark.slow
def test_encoders_of_different_geometries_share_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two encoders whose own patch sizes and resolutions differ: each cache is that of the encoder alone."""
    own = {
        "random:vit_small": Geometry(patch_px=64, mpp=1.0, region_px=256),
        "handcrafted": Geometry(patch_px=32, mpp=2.0, region_px=128),
    }
    monkeypatch.setattr(embed, "resolve_geometry", lambda config: (own[config.encoder_name], []))
    manifest = write_cohort(tmp_path, 2)
    assert embed.run(small_config(manifest, tmp_path / "caches", encoder=BOTH)) == 0
    for name in BOTH:
        folder = name.replace(":", "-")
        assert embed.run(small_config(manifest, tmp_path / folder, encoder=name)) == 0
        assert same(tmp_path / "caches" / folder, tmp_path / folder)
    metas = [TokenStore.open(tmp_path / "caches" / name.replace(":", "-")).files[0].meta for name in BOTH]
    assert [(meta.target_mpp, meta.patch_px) for meta in metas] == [(1.0, 64), (2.0, 32)]


def test_a_bad_slide_fails_in_every_cache_and_only_there(tmp_path: Path) -> None:
    manifest = write_cohort(tmp_path, 2, compression="jpeg")
    for index in range(4):
        damage_tile(tmp_path / "s0.tif", index)
    assert embed.run(small_config(manifest, tmp_path / "caches", encoder=BOTH)) == 1
    for name in ("handcrafted", "random-vit_small"):
        (failure,) = read_csv(tmp_path / "caches" / name / "failures.csv")
        assert failure["slide_id"] == "s0"
        assert TokenStore.open(tmp_path / "caches" / name).slide_ids == ("s1",)


@pytest.mark.parametrize(
    ("text", "name", "file"),
    [
        ("uni2-h", "uni2-h", None),
        ("uni2-h=a/w.bin", "uni2-h", "a/w.bin"),
        ("timm:vit?img_size=224", "timm:vit?img_size=224", None),
        ("timm:vit?img_size=224=w.safetensors", "timm:vit?img_size=224", "w.safetensors"),
    ],
)
def test_a_choice_is_a_name_and_perhaps_a_file(text: str, name: str, file: str | None) -> None:
    found = EncoderChoice.parse(text)
    assert (found.name, None if found.weights is None else str(found.weights)) == (name, file)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"encoder": ("uni", "uni")}, "--encoder: got uni, allowed: each encoder once"),
        ({"encoder": ("uni", "hipt"), "weights": "w.bin"}, "--weights: got w.bin, allowed: only with one --encoder"),
        ({"encoder": ("uni=w.bin",), "weights": "w.bin"}, "--weights: got w.bin, allowed: one weights file"),
        ({"encoder": ()}, "--encoder: got none, allowed: at least one"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        EmbedConfig(manifest=tmp_path, out=tmp_path, **given)
