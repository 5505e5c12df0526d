"""`slpd embed`: the cache of the device against that of the CPU, two processes on one device, and the rate end to end.

Slides are tiled JPEG pyramids where OpenSlide is installed, otherwise plain JPEG pictures, which every reader decodes
as a whole.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gpu.parts.encoders import untrained
from benchmarks.gpu.place import MissingError, is_installed, need, relative_difference
from slpd_toolkit.commands import embed
from slpd_toolkit.config.embed import EmbedConfig
from slpd_toolkit.config.recipe import build
from slpd_toolkit.encoders.registry import make_encoder
from slpd_toolkit.store.token_file import TokenStore

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.gpu.place import Place
    from slpd_toolkit.encoders.encoder import Encoder

_SMALL: dict[str, Any] = {
    "region_px": 256,
    "patch_px": 64,
    "mpp": 0.5,
    "batch_size": 16,
    "workers": 2,
    "min_tissue": 0.0,
}
_LIMITS = {"fp32": 1e-3, "bf16": 3e-2, "fp16": 5e-3}


def run(place: Place) -> dict[str, Any]:
    need("cv2", "tifffile", "PIL")
    tiled = is_installed("openslide")
    if not tiled:
        place.notes.append("openslide is not installed: slides are plain JPEG pictures")
    setattr(embed, "make_encoder", _make)  # noqa: B010 - not a public name of the module
    _check_caches(place, tiled=tiled)
    return {"source": "tiled JPEG" if tiled else "JPEG pictures", "end_to_end": _rates(place, tiled=tiled)}


def _make(name: str, **settings: Any) -> Encoder:
    """Replacement of `make_encoder` that builds encoders whose weights are not on this machine, untrained."""
    return untrained(name) if name == "uni" else make_encoder(name, **settings)


def _check_caches(place: Place, *, tiled: bool) -> None:
    """Embed two small slides and a bad one on the CPU and on the device, and compare the caches."""
    for number in range(2):
        _write_slide(place.folder / f"s{number}", 256 + 256 * number, number, tiled=tiled)
    manifest = _manifest(place.folder, ["s0", "s1"], bad=True)
    settings: dict[str, Any] = {"manifest": manifest, "encoder": ("random:vit_tiny",), **_SMALL}
    expected = _tokens(place, "cpu", **settings, device="cpu", precision="fp32")
    for precision in place.all_precisions:
        found = _tokens(place, f"device-{precision}", **settings, device=place.device, precision=precision)
        difference = relative_difference(expected, found)
        place.check(f"tokens of a cache, {precision} vs. fp32 on the CPU, relative", difference, _LIMITS[precision])
    pair = f"{place.device}:0,{place.device}:0" if place.device == "cuda" else f"{place.device},{place.device}"
    twice = _tokens(place, "twice", **settings, device=pair, precision="fp32")
    alone = _tokens(place, "alone", **settings, device=place.device, precision="fp32")
    place.require(
        "the cache of two processes on the device is that of one, bit by bit", ok=np.array_equal(twice, alone)
    )
    both = settings | {"encoder": ("random:vit_tiny", "handcrafted")}
    shared = _tokens(place, "both", cache="random-vit_tiny", **both, device=place.device, precision="fp32")
    place.require("two encoders in one reading: the cache is that of one, bit by bit", ok=np.array_equal(shared, alone))


def _rates(place: Place, *, tiled: bool) -> list[dict[str, Any]]:
    """Measure `slpd embed` on many slides of 4,096 px, as one region each."""
    side, count, patch_px = (256, 2, 64) if place.tiny else (4096, 30, 256)
    _write_slide(place.folder / "large", side, 7, tiled=tiled)
    manifest = _manifest(place.folder, ["large"], copies=count)
    rows: list[dict[str, Any]] = []
    for name in ("handcrafted",) if place.tiny else ("random:vit_small", "uni"):
        out = place.folder / f"rate-{name.replace(':', '-')}"
        sizes: dict[str, Any] = {"region_px": side, "patch_px": patch_px, "min_tissue": 0.0}
        given = {"manifest": manifest, "out": out, "encoder": (name,), "device": place.device, "qc": False}
        config = build(EmbedConfig, given | sizes)
        started = time.perf_counter()
        try:
            assert embed.run(config) == 0
        except MissingError as missing:
            place.notes.append(f"{name} is skipped: {missing}")
            continue
        seconds = time.perf_counter() - started
        patches = sum(file.tokens.shape[0] * (side // patch_px) ** 2 for file in TokenStore.open(out).files)
        rows.append(
            {
                "encoder": name,
                "patches": patches,
                "seconds_with_start": round(seconds, 1),
                "patches_per_s": round(patches / seconds, 1),
                "cores": os.cpu_count(),
            }
        )
    return rows


def _tokens(place: Place, name: str, *, cache: str = "", **settings: Any) -> np.ndarray:
    """Embed, check the exit code and the list of failures, and return all tokens, (N, D)."""
    out = place.folder / name
    code = embed.run(build(EmbedConfig, {"out": out, **settings}))
    store = TokenStore.open(out / cache)
    failures = (out / cache / "failures.csv").read_text(encoding="utf-8").splitlines()
    listed = code == 1 and len(failures) == 2 and store.slide_ids == ("s0", "s1")
    place.require(f"{name}: the bad slide is listed, the others are embedded", ok=listed)
    tokens = [np.asarray(file.tokens, np.float32).reshape(-1, file.meta.embedding_dim) for file in store.files]
    return np.concatenate(tokens)


def _write_slide(stem: Path, side: int, seed: int, *, tiled: bool) -> None:
    from tests.slide_factory import tissue, write_slide

    pixels = tissue(side, side, mpp=0.5, seed=seed)
    if tiled:
        write_slide(stem.with_suffix(".tif"), pixels, mpp=0.5, compression="jpeg")
        return
    from PIL import Image

    Image.fromarray(pixels).save(stem.with_suffix(".jpg"), quality=90)


def _manifest(folder: Path, stems: list[str], *, copies: int = 1, bad: bool = False) -> Path:
    path = folder / f"{stems[0]}.csv"
    lines = ["slide_id,slide_path,mpp"]
    for stem in stems:
        (file,) = (each for each in folder.glob(f"{stem}.*") if each.suffix in {".jpg", ".tif"})
        lines += [f"{stem}{f'-{copy}' if copies > 1 else ''},{file.name},0.5" for copy in range(copies)]
    if bad:
        lines.append(f"bad,{path.name},0.5")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
