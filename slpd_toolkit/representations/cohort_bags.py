"""Bags of every model for the slides of an evaluation, and their provenance."""

from __future__ import annotations

import platform
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import sklearn
import torch

from slpd_toolkit.core import compute, console
from slpd_toolkit.core.files import sha256
from slpd_toolkit.core.text import agree, count, listed
from slpd_toolkit.core.version import __version__
from slpd_toolkit.representations.collapse import collapse_warning
from slpd_toolkit.representations.models import Cache, DescribedModel
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.token_file import TokenStore

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from slpd_toolkit.mil.statistics.results import Representation
    from slpd_toolkit.representations.models import Model


@contextmanager
def open_cache(path: Path | None, device: torch.device, workers: int) -> Iterator[Cache | None]:
    """Open a token cache for random access; None if there is none.

    Raises:
        CacheError: The cache is empty, inconsistent or damaged.
    """
    if path is None:
        yield None
        return
    store = TokenStore.open(path)
    with closing(CohortTokens(store)) as tokens:
        yield Cache(store, tokens, device, workers)


def warn_of_empty_slides(cache: Cache, listed_slides: Collection[str]) -> None:
    """Warn about listed slides whose token file has no regions; they count as missing."""
    empty = sorted((set(cache.store.slide_ids) - cache.files.keys()) & set(listed_slides))
    if empty:
        console.warn(
            f"{count(len(empty), 'slide has', 'slides have')} a token file without regions and "
            f"{agree(len(empty), 'counts', 'count')} as missing: {listed(empty)}."
        )


def slides_by_source(cache: Path | None, models: Sequence[Model]) -> dict[str, Sequence[str]]:
    """Return the slides of each source of embeddings, by its name in messages; the cache counts as one source."""
    return {
        f"the cache {cache}" if model.of_cache else f"the table {model.source}": sorted(model.slides)
        for model in models
    }


def represent_all(models: Sequence[Model], slides: Sequence[str], cache: Cache | None) -> tuple[Representation, ...]:
    """Represent the slides with every model; models that share their regions embed them once.

    A warning reports regions whose slide means hardly differ: see `collapse_warning`.
    """
    files = {} if cache is None else cache.files
    regions = sum(len(files[slide]) for slide in slides if slide in files)
    origins = {(origin.source, origin.digest): origin for origin in map(_regions_of, models)}
    total = regions * sum(origin.of_cache for origin in origins.values())
    with console.progress("embed", total=total, unit="regions", shown=total > 0) as bar:
        made = {key: origin.represent(slides, bar) for key, origin in origins.items()}
    found = [made[origin.source, origin.digest] for origin in map(_regions_of, models)]
    for key, origin in origins.items():
        if origin.of_cache:  # tables were checked when they were opened
            bags = made[key].bags
            console.warn_if(collapse_warning(f"Slide means of {origin.name}", bags.slides, bags.mean()))
    return tuple(
        model.describe(each) if isinstance(model, DescribedModel) else replace(each, name=model.name)
        for model, each in zip(models, found, strict=True)
    )


def _regions_of(model: Model) -> Model:
    return model.regions if isinstance(model, DescribedModel) else model


def provenance(manifest: Path, models: Sequence[Model], cache: Cache | None, device: torch.device) -> dict[str, object]:
    """Return software versions, and digests of the inputs."""
    encoder = {}
    if cache is not None:
        encoder = {"encoder": cache.store.meta.encoder, "encoder_sha256": cache.store.meta.encoder_sha256}
    return {
        "toolkit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scikit_learn": sklearn.__version__,
        "device": compute.describe(device),
        "manifest_sha256": sha256(manifest),
        "models": {model.name: model.digest for model in models if model.digest},
        **encoder,
    }
