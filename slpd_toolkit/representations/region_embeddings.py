"""Embedding every region of a token cache with a region ViT: bags of embeddings with coordinates."""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from slpd_toolkit.core import compute, console
from slpd_toolkit.core.errors import CacheError, UsageError
from slpd_toolkit.core.version import __version__
from slpd_toolkit.foreign.anndata_parquet import make_anndata
from slpd_toolkit.models.region_vit import RegionViT
from slpd_toolkit.representations.models import Cache, RegionModel, with_mean_tokens
from slpd_toolkit.representations.opening import InferenceOptions, open_models, open_network
from slpd_toolkit.representations.slide_context import ContextModel
from slpd_toolkit.representations.sound_slides import without_damaged
from slpd_toolkit.representations.sources import Kind, parse_sources
from slpd_toolkit.store.cohort_tokens import CohortTokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    import torch
    from anndata import AnnData

    from slpd_toolkit.core.failures import Failure
    from slpd_toolkit.core.precision import Precision
    from slpd_toolkit.mil.bags import Bags
    from slpd_toolkit.store.token_file import TokenFile, TokenStore


@dataclass(frozen=True, eq=False)
class RegionEmbeddings:
    """One vector per region of a cohort, with coordinates; the regions of a slide are contiguous.

    Slides without regions are left out.

    >>> bags = slpd.region_embeddings("cache", "runs/slpd", device="cpu")
    >>> bags["slide001"].shape, bags.means.shape
    ((3, 24), (12, 24))
    >>> bags.to_anndata().obsm["spatial"][1].tolist()
    [2304.0, 768.0]
    """

    values: npt.NDArray[np.float32]
    """(R, E) region embeddings."""
    regions: pd.DataFrame
    """R rows with the columns slide_id; x_l0 and y_l0 (top-left corner, level-0 px); region_l0 (side length, level-0
    px); mpp_l0 (um/px at level 0); tissue (mean tissue fraction, 0-1)."""
    lengths: npt.NDArray[np.int64]
    """(S,) number of regions of each slide."""
    slide_ids: tuple[str, ...]
    """S slide IDs."""
    model_name: str
    """Name of the model: the name of its run folder, or the file name without suffix."""
    provenance: dict[str, str | int | float]
    """Model, encoder and geometry of the embeddings."""
    mean_tokens: npt.NDArray[np.float32] | None = None
    """(S, D) mean token of each slide, over the tissue patches of its regions, if it was asked for."""

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"RegionEmbeddings({len(self.slide_ids):,} slides, {len(self):,} regions x {self.values.shape[1]})"

    def __getitem__(self, slide_id: str) -> npt.NDArray[np.float32]:
        """Return the bag of a slide: its (n, E) region embeddings.

        Raises:
            KeyError: The slide has no embeddings.
        """
        return self.values[self.rows_of(slide_id)]

    def rows_of(self, slide_id: str) -> slice:
        """Return the rows of `values` and `regions` that belong to a slide.

        Raises:
            KeyError: The slide has no embeddings.
        """
        return self._rows[slide_id]

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """(S,) first row of each slide."""
        return np.cumsum(self.lengths) - self.lengths

    @cached_property
    def _rows(self) -> dict[str, slice]:
        ends = self.starts + self.lengths
        return {
            slide_id: slice(int(start), int(end))
            for slide_id, start, end in zip(self.slide_ids, self.starts, ends, strict=True)
        }

    @cached_property
    def means(self) -> npt.NDArray[np.float32]:
        """(S, E) mean embedding of each slide, in the order of `slide_ids`."""
        sums = np.add.reduceat(self.values, self.starts, axis=0, dtype=np.float64)
        means: npt.NDArray[np.float32] = (sums / self.lengths[:, None]).astype(np.float32)
        return means

    @property
    def centres_l0(self) -> npt.NDArray[np.float64]:
        """(R, 2) x and y of the center of each region, level-0 px."""
        corners = self.regions[["x_l0", "y_l0"]].to_numpy(np.float64)
        return corners + self.regions[["region_l0"]].to_numpy(np.float64) / 2

    @property
    def row_names(self) -> pd.Index:
        """R unique names, <slide_id>_<x_l0>_<y_l0>."""
        places = self.regions[["slide_id", "x_l0", "y_l0"]].itertuples(index=False)
        return pd.Index([f"{slide}_{x}_{y}" for slide, x, y in places])

    def to_anndata(self) -> AnnData:
        """Convert to AnnData: embeddings in `X`, `regions` in `obs`, centers in `obsm["spatial"]`.

        Raises:
            UsageError: anndata is not installed.
        """
        return make_anndata(self.values, self.regions.set_axis(self.row_names), self.centres_l0, self.provenance)


def embed_regions(
    store: TokenStore,
    model: str | RegionViT,
    *,
    precision: Precision = "auto",
    device: str = "auto",
    workers: int = 2,
    failures: list[Failure] | None = None,
    stage: str = "",
    mean_tokens: bool = False,
) -> RegionEmbeddings:
    """Embed every region of a token cache.

    Args:
        store: The token cache.
        model: A region ViT, its weights file, its run folder, or `mean-tokens` (mean of the tissue tokens).
        precision: Precision of the model.
        device: Device of the model.
        workers: Number of threads that read tokens ahead.
        failures: Where damaged slides are listed, which are then left out; None to raise an error instead.
        stage: Name of the command in that list.
        mean_tokens: Also return the mean token of each slide.

    Raises:
        UsageError: The model does not match the cache, or does not embed regions.
        WeightsError: The model's file cannot be read.
        CacheError: A token file can no longer be read.
        DeviceMemoryError: The device does not have enough memory.
    """
    where = compute.resolve_device(device)
    arithmetic = compute.resolve_precision(precision, where)
    try:
        opened, bags = _embed(store, model, arithmetic, where, workers, mean_tokens=mean_tokens)
    except CacheError:
        sound = store if failures is None else without_damaged(store, failures, stage)
        if len(sound) == len(store):
            raise
        store = sound
        opened, bags = _embed(store, model, arithmetic, where, workers, mean_tokens=mean_tokens)
    slides = tuple(slide for slide in store.files if len(slide))
    meta = store.meta
    provenance: dict[str, str | int | float] = {
        "toolkit_version": __version__,
        "model": opened.source,
        "model_sha256": opened.digest,
        "precision": arithmetic,
        "encoder": meta.encoder,
        "encoder_sha256": meta.encoder_sha256,
        "target_mpp": meta.target_mpp,
        "patch_px": meta.patch_px,
        "region_px": meta.region_px,
    }
    return RegionEmbeddings(
        bags.features,
        about_regions(slides),
        np.diff(bags.offsets),
        bags.slides,
        opened.name,
        provenance,
        bags.appended,
    )


def _embed(
    store: TokenStore,
    model: str | RegionViT,
    precision: Precision,
    device: torch.device,
    workers: int,
    *,
    mean_tokens: bool,
) -> tuple[RegionModel | ContextModel, Bags]:
    slides = [slide.meta.slide_id for slide in store.files if len(slide)]
    with closing(CohortTokens(store)) as tokens, _in_eval_mode(model):
        opened = _open(model, Cache(store, tokens, device, workers), precision)
        with console.progress("embed", total=int(store.lengths.sum()), unit="regions") as progress:
            bags = opened.represent(slides, progress).bags
        return opened, with_mean_tokens(bags, opened.cache) if mean_tokens else bags


def about_regions(files: Sequence[TokenFile]) -> pd.DataFrame:
    """Describe each region of the given slides; see `RegionEmbeddings.regions`."""
    lengths = [len(file) for file in files]
    coords = np.concatenate([file.coords for file in files])
    return pd.DataFrame(
        {
            "slide_id": np.repeat([file.meta.slide_id for file in files], lengths),
            "x_l0": coords[:, 0],
            "y_l0": coords[:, 1],
            "region_l0": np.repeat([file.meta.region_l0 for file in files], lengths),
            "mpp_l0": np.repeat([file.meta.mpp_l0 for file in files], lengths),
            "tissue": np.concatenate([file.tissue.mean(axis=(1, 2), dtype=np.float32) for file in files]),
        }
    )


def _open(model: str | RegionViT, cache: Cache, precision: Precision) -> RegionModel | ContextModel:
    options = InferenceOptions(precision, "full", 0, Path())
    if isinstance(model, RegionViT):
        return open_network(model, cache, options)
    (source,) = parse_sources([model])
    if source.kind not in {Kind.REGION_VIT, Kind.MEAN_TOKENS, Kind.SLIDE_VIT}:
        raise UsageError(
            f"--model: {model} is a {source.kind.value}, which does not embed regions.",
            hint="Use a region_vit.pt, its run folder, mean-tokens, or the run folder of a slide ViT.",
        )
    (opened,) = open_models([replace(source, descriptor=None)], cache, options)
    assert isinstance(opened, RegionModel | ContextModel)
    return opened


@contextmanager
def _in_eval_mode(model: str | RegionViT) -> Iterator[None]:
    """Disable stochastic depth for the duration of the block."""
    if isinstance(model, str) or not model.training:
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()
