"""Attributes of the token files of imported slides, including their source."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from hashlib import sha256
from typing import TYPE_CHECKING

from slpd_toolkit.config.recipe import as_recipe
from slpd_toolkit.core.errors import CacheError
from slpd_toolkit.core.files import fingerprint
from slpd_toolkit.core.version import __version__
from slpd_toolkit.store.schema import TokenMeta
from slpd_toolkit.store.token_file import TokenFile, require_same

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from slpd_toolkit.config.import_features import ImportConfig
    from slpd_toolkit.foreign.consensus import Cohort
    from slpd_toolkit.foreign.features import SlideFeatures
    from slpd_toolkit.foreign.regrid import Placement

_PLACEMENT = ("tool", "tolerance", "patches", "placed")
_UNKNOWN = "unknown"


def cohort_meta(cohort: Cohort, config: ImportConfig, tool: str) -> TokenMeta:
    """Return the attributes shared by all slides; those that the files do not record are `unknown`."""
    return TokenMeta(
        slide_id="",
        slide_width_l0=0,
        slide_height_l0=0,
        slide_fingerprint="",
        mpp_l0=cohort.target_mpp,
        target_mpp=cohort.target_mpp,
        effective_mpp=cohort.target_mpp,
        upsampling=1.0,
        patch_px=cohort.patch_px,
        region_px=cohort.region_px,
        region_l0=cohort.region_px,
        min_tissue=config.min_tissue,
        encoder=cohort.encoder,
        encoder_sha256=f"{_UNKNOWN}, features from {tool}",
        encoder_input_px=0,
        embedding_dim=cohort.embedding_dim,
        mean=(),
        std=(),
        precision=_UNKNOWN,
        toolkit_version=__version__,
        recipe=json.dumps(as_recipe(config), sort_keys=True),
    )


def slide_meta(
    shared: TokenMeta, slide_id: str, slide: SlideFeatures, placement: Placement, tolerance: float
) -> TokenMeta:
    """Return the attributes of one slide.

    Args:
        shared: Attributes of the cohort.
        slide_id: Name of the slide in the cache.
        slide: Features of the slide.
        placement: Placement of its patches.
        tolerance: Maximum distance of a patch from its cell, in patch sides.
    """
    extent_l0 = placement.coords_l0.max(axis=0) + placement.region_l0
    notes = slide.notes
    if slide.size_l0 is None:
        notes = (*notes, "the size of the slide is unknown: it is assumed to end with its last region")
    source = {
        "tool": slide.tool,
        "files": [str(path.resolve()) for path in slide.files[:2]],
        "file_count": len(slide.files),
        "located": slide.located,
        **asdict(placement.report),
        "tolerance": tolerance,
        "notes": notes,
    }
    width_l0, height_l0 = slide.size_l0 or extent_l0.tolist()
    return replace(
        shared,
        slide_id=slide_id,
        slide_width_l0=width_l0,
        slide_height_l0=height_l0,
        slide_fingerprint=_fingerprint(slide.files),
        mpp_l0=slide.mpp_l0,
        effective_mpp=slide.effective_mpp,
        upsampling=max(1.0, slide.patch_px / slide.patch_l0),
        region_l0=placement.region_l0,
        source=json.dumps(source, sort_keys=True),
    )


def require_placed_alike(path: Path, meta: TokenMeta) -> None:
    """Check that an existing token file is what this run would write.

    Raises:
        CacheError: It is unreadable, or differs; the message lists the attributes that differ.
    """
    require_same(path, meta)
    stored = TokenFile.open(path).meta.source
    there, here = (json.loads(source) if source else {} for source in (stored, meta.source))
    differing = [name for name in _PLACEMENT if there.get(name) != here[name]]
    if differing:
        said = ", ".join(f"{name}: {there.get(name)!r} there, {here[name]!r} here" for name in differing)
        raise CacheError(f"{path} already exists, but {said}.", hint="Use --overwrite to replace it.")


def _fingerprint(files: Sequence[Path]) -> str:
    """Return one fingerprint for all files of a slide, which may be thousands."""
    each = [fingerprint(path) for path in files]
    return each[0] if len(each) == 1 else f"{len(each)}-files-{sha256('+'.join(each).encode()).hexdigest()[:16]}"
