"""What a slide ViT is trained on: the regions of a cohort by a model that is stored with it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from slpd_toolkit.core import compute, console
from slpd_toolkit.core.errors import CacheError, UsageError
from slpd_toolkit.representations.models import Cache, RegionModel
from slpd_toolkit.representations.opening import InferenceOptions, open_models
from slpd_toolkit.representations.slide_context import slide_bags
from slpd_toolkit.representations.sources import Kind, parse_sources
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.schema import COHORT_FIELDS

if TYPE_CHECKING:
    import torch

    from slpd_toolkit.core.precision import Precision
    from slpd_toolkit.mil.statistics.results import RegionPlaces
    from slpd_toolkit.store.token_file import TokenStore
    from slpd_toolkit.training.slide_views import SlideBags


class TrainingRegions(NamedTuple):
    """Regions of a cohort."""

    bags: SlideBags
    places: RegionPlaces
    provenance: dict[str, Any]
    """Stored with the slide ViT: the model of regions with its weights, and the kind of tokens."""


def regions_for_training(
    store: TokenStore, model: str, precision: Precision, device: torch.device, workers: int
) -> TrainingRegions:
    """Embed all regions of a cohort.

    Raises:
        UsageError: The model does not embed regions, or does not match the cache.
        WeightsError: The model's file is not a region ViT.
        CacheError: No slide has a region, or a token file can no longer be read.
    """
    (source,) = parse_sources([model])
    if source.kind not in {Kind.REGION_VIT, Kind.MEAN_TOKENS} or source.descriptor is not None:
        raise UsageError(
            f"--model: {model} is a {source.kind.value}, which does not embed regions.",
            hint="Use a region_vit.pt, its run folder, or mean-tokens.",
        )
    slides = [file.meta.slide_id for file in store.files if len(file)]
    if not slides:
        raise CacheError(f"{store.folder}: none of its slides has regions.", hint="Embed slides with tissue.")
    options = InferenceOptions(compute.resolve_precision(precision, device), "full", 0, Path())
    with closing(CohortTokens(store)) as tokens:
        (opened,) = open_models([source], Cache(store, tokens, device, workers), options)
        assert isinstance(opened, RegionModel)
        with console.progress("embed", total=int(store.lengths.sum()), unit="regions") as bar:
            found = opened.represent(slides, bar)
    assert found.places is not None
    regions: dict[str, Any] = {
        "source": opened.source,
        "digest": opened.digest,
        "pretrained": sorted(opened.pretrained),
        "pretraining_known": opened.pretraining_known,
    }
    if opened.network is not None:
        regions |= {"config": opened.network.shape(), "state_dict": opened.network.state_dict()}
    tokens_of = {name: getattr(store.meta, name) for name in COHORT_FIELDS}
    return TrainingRegions(slide_bags(found.bags, found.places), found.places, {**tokens_of, "regions": regions})
