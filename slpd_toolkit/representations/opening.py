"""Opens the models of all sources, and checks them before anything is computed."""

from __future__ import annotations

import csv
import hashlib
import weakref
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from slpd_toolkit.config.region_vit import RegionViTConfig
from slpd_toolkit.core.compute import autocast
from slpd_toolkit.core.errors import Problems, UsageError, WeightsError
from slpd_toolkit.core.files import require_regular, sha256
from slpd_toolkit.encoders.encoder import digest_of_state
from slpd_toolkit.models.region_vit import REGION_VIT, RegionViT
from slpd_toolkit.models.slide_vit import SlideViT
from slpd_toolkit.models.weights import read_checkpoint
from slpd_toolkit.objectives.crops import centre_crop
from slpd_toolkit.representations.models import DescribedModel, RegionModel
from slpd_toolkit.representations.slide_context import ContextModel
from slpd_toolkit.representations.sources import Kind
from slpd_toolkit.representations.vector_sources import open_table
from slpd_toolkit.store.centered_tokens import CenteredTokens
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.schema import COHORT_FIELDS
from slpd_toolkit.store.stain_folders import count_stain_views
from slpd_toolkit.store.stain_views import MeanOfStains, open_stain_views
from slpd_toolkit.training.run_folder import SLIDES
from slpd_toolkit.training.sampling import Stream, generator

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from slpd_toolkit.core.precision import Precision
    from slpd_toolkit.mil.bundle.origin import Origin
    from slpd_toolkit.representations.models import Cache, EmbedRegions, Model
    from slpd_toolkit.representations.sources import Source
    from slpd_toolkit.store.schema import TokenMeta
    from slpd_toolkit.store.streaming import RegionBatch
    from slpd_toolkit.store.token_file import TokenStore

_STORED = "region_embeddings"
_GLOBAL_CROP, _OF_GRID = 14, 16
_MUST_AGREE = ("encoder", "encoder_sha256", "embedding_dim", "target_mpp", "patch_px", "region_px")
"""Attributes that the model's tokens and those of the cache must share. Others, such as precision, hardly matter."""


@dataclass(frozen=True)
class InferenceOptions:
    """Inference settings of region ViTs."""

    precision: Precision
    """Resolved precision."""
    view: Literal["full", "centre"]
    seed: int
    """Seed of the untrained model."""
    out: Path
    """Output folder. Stores the embeddings of the untrained model; those of others are stored next to the model."""


def open_models(
    sources: Sequence[Source],
    cache: Cache | None,
    options: InferenceOptions,
    *,
    no_features: Collection[str] = (),
    patient_of: Mapping[str, str] | None = None,
) -> list[Model]:
    """Open every source.

    Args:
        sources: From `parse_sources`.
        cache: The token cache; None if all sources are tables.
        options: Inference settings of region ViTs.
        no_features: Columns that are not features if they occur in tables, such as those of the manifest.
        patient_of: Patient of each slide of the manifest, for vectors of patients.

    Raises:
        UsageError: Unreadable tables, models that do not match the cache, or no cache; reported together.
        WeightsError: A weights file is the only problem.
    """
    needy = [source.name for source in sources if source.needs_tokens]
    if needy and cache is None:
        raise UsageError(
            f"Missing token cache, required by --model {', '.join(needy)}.",
            hint="Pass it as the first argument: slpd mil-eval CACHE ...",
        )
    problems = Problems()
    models: list[Model] = []
    opened: dict[tuple[Kind, Path | None], RegionModel | ContextModel] = {}
    trained: RegionViT | None = None
    for source in sorted(sources, key=lambda source: source.kind is Kind.UNTRAINED):  # it uses the others' shape
        with problems.gathered():
            if source.kind is Kind.TABLE:
                assert source.path is not None
                models.append(open_table(source.name, source.path, no_features=no_features, patient_of=patient_of))
                continue
            assert cache is not None
            origin = (source.kind, source.path)
            if origin not in opened:  # several descriptors of one model embed its regions once
                opened[origin], network = _open_regions(source, cache, trained, options)
                trained = network or trained
            regions = replace(opened[origin], name=source.name)
            described = source.descriptor and DescribedModel(source.name, opened[origin], source.descriptor)
            models.append(described or regions)
    problems.raise_any()
    place = {source.name: index for index, source in enumerate(sources)}
    return sorted(models, key=lambda model: place[model.name])


def _open_regions(
    source: Source, cache: Cache, trained: RegionViT | None, options: InferenceOptions
) -> tuple[RegionModel | ContextModel, RegionViT | None]:
    """Open a model of regions; also return its network if it is a trained region ViT."""
    if source.kind is Kind.SLIDE_VIT:
        return _open_slide_vit(source, cache, options), None
    if source.kind is Kind.UNTRAINED:
        return _untrained(source, cache, trained, options), None
    if source.kind is Kind.REGION_VIT:
        return _open_region_vit(source, cache, options)
    embed, over_stains = _mean_tokens(cache.store), source.kind is Kind.MEAN_OF_STAINS
    cache = _with_mean_of_stains(cache) if over_stains else cache
    model = RegionModel(
        source.name, source.kind.value, "", cache, embed, pretraining_known=True, over_stains=over_stains
    )
    return model, None


def open_network(network: RegionViT, cache: Cache, options: InferenceOptions) -> RegionModel:
    """Wrap a region ViT in memory; its embeddings are not stored.

    Raises:
        UsageError: The network does not match the tokens of the cache.
    """
    name = "the region ViT"
    require_fit(name, network, cache.store.meta, {})
    return RegionModel(name, name, digest_of_state(network), _inputs(network, cache), _forward(network, cache, options))


def open_origin(name: str, origin: Origin, cache: Cache, options: InferenceOptions) -> Model:
    """Open the representation of a bundle, for tokens of the kind that it was trained on.

    Args:
        name: Name of the model.
        origin: Its origin; not slide vectors.
        cache: The tokens.
        options: Inference settings. Embeddings by a region ViT are stored in `options.out`.
    """
    regions = _regions_of(name, origin, cache, options)
    return regions if origin.descriptor is None else DescribedModel(name, regions, origin.descriptor)


def _regions_of(name: str, origin: Origin, cache: Cache, options: InferenceOptions) -> RegionModel:
    network = origin.network
    if network is None:
        return RegionModel(name, origin.source, "", cache, _mean_tokens(cache.store))
    stored = options.out / _STORED / _stored_name(name, cache.store, options)
    embed = _forward(network, cache, options)
    return RegionModel(name, origin.source, origin.digest, _inputs(network, cache), embed, stored, network=network)


def open_like(model: RegionModel, cache: Cache, options: InferenceOptions) -> RegionModel:
    """Open a model of regions for another cache of the same kind of tokens; see `open_origin`."""
    network = model.network
    if network is None:
        cache = _with_mean_of_stains(cache) if model.over_stains else cache
        return replace(model, cache=cache, embed=_mean_tokens(cache.store))
    stored = options.out / _STORED / _stored_name(f"external-{model.name}", cache.store, options)
    return replace(model, cache=_inputs(network, cache), embed=_forward(network, cache, options), stored=stored)


def _with_mean_of_stains(cache: Cache) -> Cache:
    """Return the cache with tokens averaged over all its stains.

    Raises:
        UsageError: It has no stain views.
        CacheError: A view lacks slides.
    """
    folder = cache.store.folder
    views = open_stain_views(cache.store, max(1, 0 if folder is None else count_stain_views(folder)))
    of_views = [CohortTokens(view) for view in views]
    for each in of_views:
        weakref.finalize(cache.tokens, each.close)
    return replace(cache, tokens=MeanOfStains(cache.store, [cache.tokens, *of_views]))


def mean_of_tissue(grids: Tensor, tissue: Tensor, present: Tensor | None = None) -> Tensor:
    """Compute the unweighted mean of the tokens of tissue patches; without tissue patches, of all present tokens.

    A patch counts as tissue if its tissue fraction is above 0, because its token then describes tissue. Missing patches
    are stored with tissue 0 and do not count.

    Args:
        grids: (N, h, w, D) tokens.
        tissue: (N, h, w) tissue fraction of each patch.
        present: (N, h, w) bool, patches that have a token; None for all.

    Returns:
        (N, D) float32.
    """
    counts = (tissue > 0).float()
    bare = counts.sum(dim=(1, 2)) == 0
    counts[bare] = 1 if present is None else present[bare].float()
    total = torch.einsum("nhwd,nhw->nd", grids.float(), counts)
    return total / counts.sum(dim=(1, 2)).unsqueeze(1)


def _mean_tokens(store: TokenStore) -> EmbedRegions:
    tissue = torch.from_numpy(np.concatenate([slide.tissue for slide in store.files]))

    def embed(batch: RegionBatch) -> Tensor:
        return mean_of_tissue(batch.tokens, tissue[batch.regions].to(batch.tokens.device), batch.present)

    return embed


def _open_region_vit(source: Source, cache: Cache, options: InferenceOptions) -> tuple[RegionModel, RegionViT]:
    assert source.path is not None
    network = RegionViT.from_file(source.path)
    require_fit(str(source.path), network, cache.store.meta, read_checkpoint(source.path).get("provenance", {}))
    digest = sha256(source.path)
    slides = source.path.parent / SLIDES if source.path.name == REGION_VIT else None
    pretrained = _slides_seen(slides) if slides and slides.exists() else None
    model = RegionModel(
        source.name,
        str(source.path),
        digest,
        _inputs(network, cache),
        _forward(network, cache, options),
        source.path.parent / _STORED / _stored_name(source.path.stem, cache.store, options),
        pretrained or frozenset(),
        pretraining_known=pretrained is not None,
        network=network,
    )
    return model, network


def _open_slide_vit(source: Source, cache: Cache, options: InferenceOptions) -> ContextModel:
    """Open a slide ViT, with the model of regions in its file. Embeddings of regions are stored next to it."""
    assert source.path is not None
    network, provenance = SlideViT.from_file(source.path)
    try:
        regions = dict(provenance["regions"])
        seen, known = frozenset(regions["pretrained"]), bool(regions["pretraining_known"])
        inner, digest = str(regions["source"]), str(regions["digest"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{source.path} contains no region model ({error!r}).", hint="Use a slide_vit.pt of slpd pretrain-slides."
        ) from error
    _require_same_tokens(str(source.path), cache.store.meta, provenance)
    embed, region_vit, inputs = _mean_tokens(cache.store), None, cache
    if "state_dict" in regions:
        region_vit = RegionViT.from_checkpoint(regions, source.path)
        require_fit(str(source.path), region_vit, cache.store.meta, {})
        embed, inputs = _forward(region_vit, cache, options), _inputs(region_vit, cache)
    width = cache.store.embedding_dim if region_vit is None else region_vit.config.region_dim
    if width != network.input_dim:
        raise WeightsError(f"{source.path} takes {network.input_dim} features, but its region model returns {width}.")
    stored = source.path.parent / _STORED / _stored_name("regions", cache.store, options)
    model = RegionModel(
        source.name, inner, digest, inputs, embed, None if region_vit is None else stored, network=region_vit
    )
    slides = source.path.parent / SLIDES
    own = _slides_seen(slides) if slides.exists() else None
    return ContextModel(
        source.name,
        str(source.path),
        sha256(source.path),
        model,
        network,
        cache.device,
        seen | (own or frozenset()),
        pretraining_known=known and own is not None,
    )


def _untrained(source: Source, cache: Cache, trained: RegionViT | None, options: InferenceOptions) -> RegionModel:
    """Open the network with the initial weights of `slpd pretrain --seed`.

    Its architecture is that of the trained model in the same evaluation, or else ViT-4K-XS.
    """
    store = cache.store
    config = RegionViTConfig(drop_path=0.0) if trained is None else trained.config
    grid = max(1, round(store.grid * _GLOBAL_CROP / _OF_GRID)) if trained is None else trained.grid
    start = generator(options.seed, Stream.WEIGHTS)
    network = RegionViT(config, start, input_dim=store.embedding_dim, grid=grid).eval()
    if trained is not None and config.whitening != "none":
        network.phi.set_map(trained.phi.token_mean, trained.phi.token_map)
    digest = hashlib.sha256(f"untrained {network.shape()} {options.seed}".encode()).hexdigest()
    return RegionModel(
        source.name,
        f"untrained region ViT, seed {options.seed}",
        digest,
        _inputs(network, cache),
        _forward(network, cache, options),
        options.out / _STORED / _stored_name("untrained", store, options),
        pretraining_known=True,
        network=network,
    )


def _inputs(network: RegionViT, cache: Cache) -> Cache:
    """Return the cache with tokens as the network expects them."""
    if network.config.centering == "none":
        return cache
    return replace(cache, tokens=CenteredTokens(cache.store, cache.tokens))


def _forward(network: RegionViT, cache: Cache, options: InferenceOptions) -> EmbedRegions:
    def embed(batch: RegionBatch) -> Tensor:
        network.to(cache.device)
        grids, present = batch.tokens, batch.present
        if options.view == "centre":
            grids = centre_crop(grids, network.grid)
            present = None if present is None else centre_crop(present, network.grid)
        with autocast(cache.device, options.precision):
            embedded: Tensor = network(grids, present=present)
        return embedded

    return embed


def require_fit(name: str, network: RegionViT, meta: TokenMeta, provenance: dict[str, object]) -> None:
    """Check that a region ViT was trained on tokens of the kind described by `meta`.

    Raises:
        UsageError: It was not; the message names what differs.
    """
    if network.input_dim != meta.embedding_dim:
        raise UsageError(
            f"{name} expects tokens with {network.input_dim} features, but those in the cache have "
            f"{meta.embedding_dim} ({meta.encoder}).",
            hint="Evaluate a model on tokens of the encoder that it was trained on.",
        )
    if network.grid > meta.grid:
        raise UsageError(
            f"{name} was trained on {network.grid} x {network.grid} tokens, but regions in the cache have "
            f"{meta.grid} x {meta.grid}.",
            hint="Evaluate a model on regions of the size that it was trained on.",
        )
    _require_same_tokens(name, meta, provenance)


def _require_same_tokens(name: str, meta: TokenMeta, provenance: dict[str, object]) -> None:
    differences = [
        f"{name}: {provenance[name]!r} in training, {getattr(meta, name)!r} in the cache"
        for name in _MUST_AGREE
        if name in provenance and provenance[name] != getattr(meta, name)
    ]
    if differences:
        raise UsageError(
            f"{name} was trained on tokens that differ from those in the cache: {', '.join(differences)}.",
            hint="Evaluate a model on the same kind of tokens that it was trained on.",
        )


def _slides_seen(path: Path) -> frozenset[str]:
    try:
        require_regular(path)
        with path.open(encoding="utf-8", newline="") as handle:
            return frozenset(row["slide_id"] for row in csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise UsageError(
            f"{path} does not list the slides of the run ({error}).",
            hint="The leakage audit needs it: restore it, or copy region_vit.pt to another folder to skip the audit.",
        ) from error


def _stored_name(stem: str, store: TokenStore, options: InferenceOptions) -> str:
    about = repr([getattr(store.meta, name) for name in COHORT_FIELDS])
    return f"{stem}-{options.view}-{options.precision}-{hashlib.sha256(about.encode()).hexdigest()[:8]}.h5"
