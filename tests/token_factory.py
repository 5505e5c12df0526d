"""Token caches without slides, in the real format, as input of stages two and three."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.store.schema import TokenMeta
from slpd_toolkit.store.writer import TokenWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    import h5py

LENGTHS = (9, 3, 6, 7, 5)
"""Regions of the slides of the usual cohort; with `min_regions` 5 the second slide has no prototypes."""

META = TokenMeta(
    slide_id="",
    slide_width_l0=100_000,
    slide_height_l0=80_000,
    slide_fingerprint="0-0",
    mpp_l0=0.5,
    target_mpp=0.5,
    effective_mpp=0.5,
    upsampling=1.0,
    patch_px=256,
    region_px=4096,
    region_l0=4096,
    min_tissue=0.1,
    encoder="planted",
    encoder_sha256="0" * 64,
    encoder_input_px=256,
    embedding_dim=8,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    precision="fp32",
    toolkit_version="0",
    recipe="{}",
)


def write_cache(
    folder: Path,
    lengths: Sequence[int],
    *,
    grid: int = 6,
    dim: int = 8,
    kinds: int = 3,
    seed: int = 0,
    gaps: float = 0.0,
    **attributes: object,
) -> Path:
    """Write a cache of slides with the given numbers of regions; each region is noise around one of a few kinds.

    `gaps` is the fraction of patches without a token, in all slides except the first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((kinds, dim))
    for number, length in enumerate(lengths):
        kind = generator.integers(kinds, size=length)
        tokens = centres[kind][:, None, None] + 0.5 * generator.standard_normal((length, grid, grid, dim))
        present = generator.random(tokens.shape[:3]) >= gaps if gaps and number else None
        write_slide(folder, f"slide{number:03}", tokens, present, **attributes)
    return folder


def write_slide(
    folder: Path, slide_id: str, tokens: np.ndarray, present: np.ndarray | None = None, **attributes: object
) -> Path:
    """Write one token file; regions are side by side in rows of eight."""
    there = None if present is None else present.tobytes()
    content = _token_file(slide_id, tokens.shape, tokens.dtype.str, tokens.tobytes(), there, (*attributes.items(),))
    path = folder / f"{slide_id}.h5"
    partial = path.with_suffix(".copied")
    partial.write_bytes(content)
    return partial.replace(path)


@lru_cache(maxsize=1024)
def _token_file(
    slide_id: str,
    shape: tuple[int, ...],
    dtype: str,
    features: bytes,
    there: bytes | None,
    attributes: tuple[tuple[str, object], ...],
) -> bytes:
    tokens = np.frombuffer(features, dtype).reshape(shape)
    present = None if there is None else np.frombuffer(there, np.bool_).reshape(shape[:3])
    regions, grid, _, dim = shape
    region_px = grid * META.patch_px
    meta = replace(
        META,
        slide_id=slide_id,
        embedding_dim=dim,
        region_px=region_px,
        region_l0=region_px,
        **dict(attributes),  # type: ignore[arg-type]
    )
    index = np.arange(regions)
    coords = np.stack([index % 8, index // 8], axis=1) * region_px
    rows, columns = np.divmod(np.arange(grid * grid), grid)
    with TemporaryDirectory() as folder:
        path = Path(folder, "slide.h5")
        with TokenWriter(path, meta, coords, np.ones((regions, grid, grid), np.float32), present) as writer:
            for region in range(regions):
                here = slice(None) if present is None else present[region].ravel()
                writer.put(region, rows[here], columns[here], tokens[region].reshape(-1, dim)[here])
        return path.read_bytes()


def without_digest(file: h5py.File) -> None:
    """Convert an open token file to version 1, which has no checksums, so that a test can modify it."""
    del file.attrs["digest"], file["checksums"]
    file.attrs["schema_version"] = 1
