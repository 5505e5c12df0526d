"""`slpd export`: weights, tokens, and embeddings of regions and slides, as other tools read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from slpd_toolkit.config.region_vit import RegionViTConfig
from slpd_toolkit.core import console
from slpd_toolkit.core.errors import CacheError, UsageError
from slpd_toolkit.core.files import is_safe_name, make_folder
from slpd_toolkit.foreign import anndata_parquet as annotated
from slpd_toolkit.foreign.formats import hipt, trident
from slpd_toolkit.models.region_vit import RegionViT
from slpd_toolkit.models.weights import write_checkpoint, write_safetensors
from slpd_toolkit.representations.region_embeddings import embed_regions
from slpd_toolkit.store import schema
from slpd_toolkit.store.token_file import TokenFile, TokenStore, token_paths
from slpd_toolkit.training.run_folder import REGION_VIT

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from slpd_toolkit.config.export import ExportConfig
    from slpd_toolkit.representations.region_embeddings import RegionEmbeddings
    from slpd_toolkit.store.schema import TokenMeta

_OF_WEIGHTS = {"hipt": ".pth", "safetensors": ".safetensors"}
_OF_CACHE = {"hipt": "", "trident": "", "anndata": ".h5ad", "parquet": ".parquet"}
"""What can be written of each, and the suffix of the file; none where it is a folder."""


def run(config: ExportConfig) -> int:
    """Write what `config` asks for; gives 0.

    Raises:
        UsageError: The source does not hold that, the output's name or folder does not fit, or an extra is missing.
        WeightsError: The source or the model holds no region ViT.
        CacheError: A token file cannot be read.
    """
    of_cache = _is_cache(config.source)
    allowed = _OF_CACHE if of_cache else _OF_WEIGHTS
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
    annotated.require_extra(config.to)
    if not of_cache:
        _write_weights(config)
    elif config.model:
        _write_embeddings(config)
    else:
        _write_tokens(config)
    return 0


def _is_cache(source: Path) -> bool:
    if source.is_dir():
        return not (source / REGION_VIT).exists() and bool(token_paths(source))
    return source.suffix == schema.SUFFIX


def _write_weights(config: ExportConfig) -> None:
    source = config.source / REGION_VIT if config.source.is_dir() else config.source
    model = RegionViT.from_file(source)
    if config.to == "hipt":
        # HIPT's loader takes the key "teacher" and strips "module." and "backbone.".
        teacher = {f"backbone.{name}": tensor for name, tensor in model.state_dict().items()}
        write_checkpoint({"teacher": teacher}, config.out)
        if model.shape() != RegionViT(RegionViTConfig()).shape():
            arguments = ", ".join(f"{name}={value}" for name, value in model.shape().items())
            console.warn(f"{source} does not have HIPT's architecture: its loader needs the arguments {arguments}.")
    else:
        write_safetensors(model.state_dict(), model.shape(), config.out)
    console.note(f"Wrote {config.out}.")


def _open(source: Path) -> TokenStore:
    return TokenStore([TokenFile.open(source)]) if source.is_file() else TokenStore.open(source)


def _write_tokens(config: ExportConfig) -> None:
    """Write patches' tokens, a file or some files a slide."""
    store = _open(config.source)
    _require_safe_names(store)
    folder = config.out if config.to == "hipt" else config.out / trident.folder_name(store.meta.encoder)
    make_folder(folder)
    with console.progress("export", total=len(store.files), unit="slides") as progress:
        for slide in store.files:
            slide.verify()
            slide_id = slide.meta.slide_id
            if config.to == "trident":
                features, coords_l0 = patches_of(slide)
                _write_trident(folder / f"{slide_id}.h5", slide.meta, features, coords_l0, regions=False)
            elif config.per == "region":
                hipt.write_regions(folder, slide_id, slide.tokens, slide.coords)
            else:
                hipt.write_slide(folder, slide_id, slide.tokens, slide.coords)
            progress.advance(1)
    if config.to == "hipt" and store.has_gaps:
        missing = sum(slide.missing_patches for slide in store.files)
        console.warn(f"{missing:,} patches have no token: HIPT's format has no word for that, they are zeros.")
    console.note(f"Wrote {len(store.files):,} slides to {folder}.")


def patches_of(slide: TokenFile) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Take a slide's regions apart.

    Returns:
        (N, D) tokens of the patches that have one, and (N, 2) x, y of their top-left corners, level-0 px.
    """
    grid = slide.meta.grid
    present = np.ones((len(slide), grid, grid), np.bool_) if slide.present is None else slide.present
    region, row, column = np.nonzero(present)
    side_l0 = slide.meta.region_l0 / grid
    within = np.round(np.stack([column, row], axis=1) * side_l0).astype(np.int64)
    return slide.tokens[region, row, column].astype(np.float32), slide.coords[region] + within


def _write_embeddings(config: ExportConfig) -> None:
    store = _open(config.source)
    _require_safe_names(store)
    embeddings = embed_regions(
        store, config.model, precision=config.precision, device=config.device, workers=config.workers
    )
    if config.to == "trident":
        folder = config.out / trident.folder_name(f"slpd-{embeddings.model_name}")
        make_folder(folder)
        for slide_id in embeddings.slide_ids:
            file = store[slide_id]
            _write_trident(folder / f"{slide_id}.h5", file.meta, embeddings[slide_id], file.coords, regions=True)
        console.note(f"Wrote {len(embeddings.slide_ids):,} slides to {folder}.")
        return
    per_region = config.per == "region" or (config.per == "auto" and config.to == "anndata")
    values, about = (embeddings.values, embeddings.regions) if per_region else _per_slide(embeddings)
    if config.to == "parquet":
        annotated.write_parquet(config.out, values, about, embeddings.provenance)
    elif per_region:
        about = about.set_axis(embeddings.row_names)
        annotated.write_h5ad(config.out, values, about, embeddings.centres_l0, embeddings.provenance)
    else:
        about = about.assign(regions=embeddings.lengths).set_axis(pd.Index(embeddings.slide_ids))
        annotated.write_h5ad(config.out, values, about, None, embeddings.provenance)
    console.note(f"Wrote {len(values):,} {'regions' if per_region else 'slides'} to {config.out}.")


def _per_slide(embeddings: RegionEmbeddings) -> tuple[npt.NDArray[np.float32], pd.DataFrame]:
    """Mean embeddings and slide ids. No other column: mil-eval reads every number as a feature."""
    return embeddings.means, pd.DataFrame({"slide_id": embeddings.slide_ids})


def _write_trident(
    path: Path, meta: TokenMeta, features: npt.NDArray[np.float32], coords_l0: npt.NDArray[np.int64], *, regions: bool
) -> None:
    squares = trident.Squares(
        side_px=meta.region_px if regions else meta.patch_px,
        side_l0=meta.region_l0 if regions else round(meta.region_l0 / meta.grid),
        target_mpp=meta.target_mpp,
        mpp_l0=meta.mpp_l0,
        size_l0=(meta.slide_width_l0, meta.slide_height_l0),
    )
    trident.write(path, meta.slide_id, features, coords_l0, squares, encoder=meta.encoder)


def _require_safe_names(store: TokenStore) -> None:
    """Check that every slide id can be the name of a file.

    Raises:
        CacheError: One cannot.
    """
    for slide in store.files:
        if not is_safe_name(slide.meta.slide_id):
            raise CacheError(
                f"{slide.path}: slide_id {slide.meta.slide_id!r} is not a valid file name.", hint="Remove it."
            )
