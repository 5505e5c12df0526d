"""`slpd export`: weights, tokens, and embeddings of regions and slides, as other tools read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.foreign.anndata_parquet import require_extra
from slpd_toolkit.representations.exports import embeddings, tokens, weights
from slpd_toolkit.representations.exports.source import is_cache, open_cache
from slpd_toolkit.representations.region_embeddings import embed_regions
from slpd_toolkit.store.selection import select_slides

if TYPE_CHECKING:
    from slpd_toolkit.config.export import ExportConfig

_OF_CACHE = {"hipt": "", "trident": "", "anndata": ".h5ad", "parquet": ".parquet"}
"""Formats of tokens and embeddings, and the suffix of the file; none where it is a folder."""


def run(config: ExportConfig) -> int:
    """Write what `config` asks for, and return 0.

    Raises:
        UsageError: The source does not hold that, the output's name or folder does not fit, or an extra is missing.
        WeightsError: The source or the model holds no region ViT.
        CacheError: A token file cannot be read.
    """
    of_cache = is_cache(config.source)
    _require_format(config, of_cache=of_cache)
    require_extra(config.to)
    if not of_cache:
        weights.write_weights(config.source, config.to, config.out)
        return 0
    store = select_slides(open_cache(config.source), config.manifest, config.where)
    if not config.model:
        tokens.write_tokens(store, config.to, config.out, one_file_per_region=config.per == "region")
        return 0
    found = embed_regions(store, config.model, precision=config.precision, device=config.device, workers=config.workers)
    if config.to == "trident":
        embeddings.write_trident(store, found, config.out)
    else:
        embeddings.write_table(found, config.to, config.per, config.out)
    return 0


def _require_format(config: ExportConfig, *, of_cache: bool) -> None:
    """Check that the format fits the source, and the name of the output the format.

    Raises:
        UsageError: One does not.
    """
    allowed = _OF_CACHE if of_cache else weights.SUFFIXES
    if config.to not in allowed:
        what = "a token cache" if of_cache else "weights"
        raise UsageError(
            f"--to {config.to} cannot be written from {config.source}, which is taken for {what}; "
            f"allowed: {', '.join(allowed)}.",
            hint="Give a run folder or region_vit.pt for weights, a token cache for tokens and embeddings.",
        )
    suffix = allowed[config.to]
    if suffix and (config.out.suffix != suffix or not config.out.parent.is_dir()):
        raise UsageError(f"--out: got {config.out}, allowed: a {suffix} file in a folder that exists.")
