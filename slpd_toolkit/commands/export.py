"""`slpd export`: weights, tokens, and region and slide embeddings in the formats of other tools."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.folder_lock import working_in, writing_to
from slpd_toolkit.foreign.anndata_parquet import require_extra
from slpd_toolkit.representations.exports import embeddings, hub, outlines, tokens, weights
from slpd_toolkit.representations.exports.source import is_cache, open_cache
from slpd_toolkit.representations.region_embeddings import embed_regions
from slpd_toolkit.representations.sound_slides import report_failures
from slpd_toolkit.store.selection import select_slides, selected_ids

if TYPE_CHECKING:
    from slpd_toolkit.config.export import ExportConfig

_OF_CACHE = {"hipt": "", "trident": "", "anndata": ".h5ad", "parquet": ".parquet"}
"""File suffix of each format of tokens and embeddings; empty for folders."""
_FOLDERS = ("hub-folder", "geojson")
"""Formats of other sources than weights and tokens; both are folders."""


def run(config: ExportConfig) -> int:
    """Export weights, tokens or embeddings.

    Returns:
        0, or 1 if the token files of some slides could not be read; failures.csv lists them, in the output folder or,
        as <out>.failures.csv, next to an output file.

    Raises:
        UsageError: The source cannot be written in this format, the output path is invalid, an extra is missing, or
            another process writes to the output folder.
        WeightsError: The source or the model is not a region ViT.
        CacheError: No token file can be read.
    """
    if config.to in _FOLDERS:
        with working_in(config.out, "export"):
            _write_other(config)
        return 0
    of_cache = is_cache(config.source)
    _require_format(config, of_cache=of_cache)
    require_extra(config.to)
    folder = of_cache and not _OF_CACHE[config.to]
    with (working_in if folder else writing_to)(config.out, "export"):
        return _write(config, of_cache=of_cache)


def _write_other(config: ExportConfig) -> None:
    if config.to == "hub-folder":
        hub.write_hub_folder(config.source, config.out)
        return
    only = None if config.manifest is None else selected_ids(config.manifest, config.where)
    outlines.write_outlines(config.source, config.out, crop=config.crop, only=only)


def _write(config: ExportConfig, *, of_cache: bool) -> int:
    if not of_cache:
        weights.write_weights(config.source, config.to, config.out)
        return 0
    return _write_slides(config)


def _write_slides(config: ExportConfig) -> int:
    """Write the tokens or embeddings of all slides whose token files can be read; 1 if some cannot."""
    whole, failures = open_cache(config.source)
    store = select_slides(whole, config.manifest, config.where)
    if not config.model:
        tokens.write_tokens(store, config.to, config.out, failures, one_file_per_region=config.per == "region")
        return report_failures(config.out, failures)
    found = embed_regions(
        store,
        config.model,
        precision=config.precision,
        device=config.device,
        workers=config.workers,
        failures=failures,
        stage=tokens.STAGE,
    )
    if config.to == "trident":
        embeddings.write_trident(store, found, config.out)
    else:
        embeddings.write_table(found, config.to, config.per, config.out)
    return report_failures(config.out, failures)


def _require_format(config: ExportConfig, *, of_cache: bool) -> None:
    """Check that the source can be written in the format, and that the output has the format's suffix.

    Raises:
        UsageError: One of these is not the case.
    """
    allowed = _OF_CACHE if of_cache else weights.SUFFIXES
    if config.to not in allowed:
        what = "a token cache" if of_cache else "weights"
        raise UsageError(
            f"--to {config.to} cannot be written from {config.source}, which seems to be {what}; allowed: "
            f"{', '.join(allowed)}.",
            hint="Pass a run folder or region_vit.pt to export weights, a token cache to export tokens or embeddings.",
        )
    suffix = allowed[config.to]
    if suffix and (config.out.suffix != suffix or not config.out.parent.is_dir()):
        raise UsageError(f"--out: got {config.out}, allowed: a {suffix} file in a folder that exists.")
