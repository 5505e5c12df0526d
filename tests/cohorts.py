"""Small cohorts for tests of stage one: manifests, fast settings, and an encoder with predictable tokens."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from slpd_toolkit.config.embed import EmbedConfig
from slpd_toolkit.config.settings import assemble
from slpd_toolkit.encoders.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder, freeze
from slpd_toolkit.models.patch_vit import PatchViT
from slpd_toolkit.models.transformer import initialise
from slpd_toolkit.store import schema
from slpd_toolkit.store.writer import TokenWriter
from tests.slide_factory import tissue_on_glass, write_slide
from tests.token_factory import META

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from slpd_toolkit.store.schema import TokenMeta
    from tests.slide_factory import Compression

SMALL: dict[str, Any] = {
    "encoder": "random",
    "mpp": 1.0,
    "region_px": 256,
    "patch_px": 64,
    "batch_size": 16,
    "workers": 2,
    "device": "cpu",
    "precision": "fp32",
}
"""Settings under which a slide of 700 x 900 px at 1 um/px is 12 regions of 4 x 4 patches."""


class MeanColour(nn.Module):
    """A "network" whose token is the mean of its input over height and width."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


def mean_colour_encoder(name: str, *, patch_px: int, seed: int, **_: object) -> Encoder:
    """Replacement of `make_encoder` whose tokens are the mean red, green and blue of a patch, 0 to 255."""
    scale = (1 / 255, 1 / 255, 1 / 255)
    return Encoder(name, freeze(MeanColour()), 3, patch_px, (0.0, 0.0, 0.0), scale, f"{seed:064x}")


def tiny_vit_encoder(name: str, *, patch_px: int, seed: int, **_: object) -> Encoder:
    """Replacement of `make_encoder` with the arithmetic of a real network, but fast: a ViT with two blocks."""
    network = PatchViT(embed_dim=48, depth=2, heads=3)
    initialise(network, torch.Generator().manual_seed(seed))
    return Encoder(name, freeze(network), 48, patch_px, IMAGENET_MEAN, IMAGENET_STD, f"{seed:064x}")


def write_manifest(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    rows = list(rows)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_cohort(folder: Path, count: int = 3, *, compression: Compression = "deflate") -> Path:
    """Write `count` slides of one piece of tissue each, at 1 um/px, and their manifest.

    Returns:
        The manifest; slides are named s0, s1, ... and their files s0.tif, ... are in the same folder.
    """
    for index in range(count):
        size = (700 + 64 * index, 900 - 64 * index)
        picture = tissue_on_glass(*size, [(100, 80, 640, 600)], mpp=1.0, seed=index)
        write_slide(folder / f"s{index}.tif", picture, mpp=1.0, compression=compression)
    rows = [{"slide_id": f"s{index}", "slide_path": f"s{index}.tif"} for index in range(count)]
    return write_manifest(folder / "manifest.csv", rows)


def small_config(manifest: Path, out: Path, **changes: Any) -> EmbedConfig:
    settings = SMALL | changes
    if isinstance(settings["encoder"], str):
        settings["encoder"] = (settings["encoder"],)
    return assemble(EmbedConfig, {"manifest": manifest, "out": out, **settings})


def as_flags(**values: object) -> list[str]:
    """Convert settings to command-line flags."""
    return [text for name, value in values.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def token_meta(**changes: Any) -> TokenMeta:
    """Return attributes of a token file with a 4 x 4 grid and 8 features."""
    small: dict[str, Any] = {"slide_id": "s0", "encoder": "random", "patch_px": 64, "region_px": 256, "region_l0": 512}
    return replace(META, **(small | {"encoder_input_px": 64} | changes))


def write_token_file(path: Path, regions: int = 3, seed: int = 0, **changes: Any) -> npt.NDArray[np.float16]:
    """Write a token file with random tokens, and return them, (R, grid, grid, D)."""
    meta = token_meta(slide_id=path.name.removesuffix(schema.SUFFIX), **changes)
    rng = np.random.default_rng(seed)
    tokens = rng.standard_normal((regions, meta.grid, meta.grid, meta.embedding_dim)).astype(np.float16)
    coords = np.arange(2 * regions, dtype=np.int64).reshape(regions, 2) * meta.region_l0
    tissue = rng.random((regions, meta.grid, meta.grid))
    rows, columns = (axis.ravel() for axis in np.indices((meta.grid, meta.grid)))
    with TokenWriter(path, meta, coords, tissue) as writer:
        for region in range(regions):
            writer.put(region, rows, columns, tokens[region].reshape(-1, meta.embedding_dim).astype(np.float32))
    return tokens
