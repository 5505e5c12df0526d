"""Writing tokens that were computed elsewhere as files of a token cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.version import __version__
from slpd_toolkit.store.schema import TokenMeta
from slpd_toolkit.store.token_file import TokenFile
from slpd_toolkit.store.writer import TokenWriter

if TYPE_CHECKING:
    import numpy.typing as npt

    from slpd_toolkit.api.settings import StrPath


def write_tokens(
    path: StrPath,
    tokens: npt.ArrayLike,
    coords_l0: npt.ArrayLike,
    *,
    encoder: str,
    patch_px: int,
    target_mpp: float,
    mpp_l0: float,
    size_l0: tuple[int, int] | None = None,
    tissue: npt.ArrayLike | None = None,
    present: npt.ArrayLike | None = None,
) -> TokenFile:
    """Write the tokens of one slide as a file of a token cache, atomically.

    Args:
        path: `<slide_id>.h5` in the folder of the cache, which is created if needed.
        tokens: (R, grid, grid, D) tokens of R regions, stored as float16.
        coords_l0: (R, 2) x and y of the top-left corner of each region, level-0 px.
        encoder: Name of the patch encoder; must be the same for all files of a cache.
        patch_px: Side of a patch, px at `target_mpp`.
        target_mpp: Resolution of the patches, um/px.
        mpp_l0: Resolution of the slide's level 0, um/px.
        size_l0: Width and height of the slide, level-0 px. None: the extent of the regions.
        tissue: (R, grid, grid) tissue fraction of each patch, 0-1. None: 1 for all.
        present: (R, grid, grid) bool, patches that have a token; tokens of the others are ignored. None: all.

    Raises:
        UsageError: The shapes of the arrays do not match, or there is no region.
        CacheError: The file cannot be written, or a token is NaN, infinite or too large for float16.

    >>> tokens = np.random.default_rng(0).normal(size=(2, 16, 16, 48))
    >>> file = slpd.write_tokens(
    ...     "mine/slide000.h5", tokens, [[0, 0], [8192, 0]], encoder="mine", patch_px=256, target_mpp=0.5, mpp_l0=0.25
    ... )
    >>> file.meta.region_px, file.meta.region_l0, slpd.TokenStore.open("mine").slide_ids
    (4096, 8192, ('slide000',))
    """
    path, values, coords = Path(path), np.asarray(tokens), np.asarray(coords_l0, np.int64)
    _require_shapes(values.shape, coords.shape)
    grid = values.shape[1]
    region_px = grid * patch_px
    region_l0 = round(region_px * target_mpp / mpp_l0)
    width_l0, height_l0 = (coords.max(axis=0) + region_l0).tolist() if size_l0 is None else size_l0
    meta = TokenMeta(
        slide_id=path.stem,
        slide_width_l0=width_l0,
        slide_height_l0=height_l0,
        slide_fingerprint="unknown",
        mpp_l0=mpp_l0,
        target_mpp=target_mpp,
        effective_mpp=region_l0 * mpp_l0 / region_px,
        upsampling=max(1.0, mpp_l0 / target_mpp),
        patch_px=patch_px,
        region_px=region_px,
        region_l0=region_l0,
        min_tissue=0.0,
        encoder=encoder,
        encoder_sha256="unknown",
        encoder_input_px=0,
        embedding_dim=values.shape[3],
        mean=(),
        std=(),
        precision="unknown",
        toolkit_version=__version__,
        recipe="{}",
    )
    fractions = np.ones(values.shape[:3]) if tissue is None else np.asarray(tissue, np.float64)
    kept = np.ones(values.shape[:3], bool) if present is None else np.asarray(present, bool)
    for name, array in (("tissue", fractions), ("present", kept)):
        if array.shape != values.shape[:3]:
            raise UsageError(f"write_tokens: {name} has shape {array.shape}, allowed: {values.shape[:3]}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with TokenWriter(path, meta, coords, fractions, None if kept.all() else kept) as writer:
        for region, here in enumerate(kept):
            rows, columns = np.nonzero(here)
            if len(rows):
                writer.put(region, rows, columns, values[region, rows, columns])
    return TokenFile.open(path)


def _require_shapes(tokens: tuple[int, ...], coords: tuple[int, ...]) -> None:
    regions = tokens[0] if tokens else 0
    if len(tokens) != 4 or tokens[1] != tokens[2] or not all(tokens):
        raise UsageError(f"write_tokens: tokens have shape {tokens}, allowed: (regions, grid, grid, features).")
    if coords != (regions, 2):
        raise UsageError(f"write_tokens: coords_l0 has shape {coords}, allowed: {(regions, 2)} for these tokens.")
