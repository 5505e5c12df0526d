"""The external cohort of `--external`: its token cache and tables, checked against the models of the evaluation."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import listed
from slpd_toolkit.representations.bundled import is_masked, mask_warning, regions_of, without_bundle
from slpd_toolkit.representations.cohort_bags import open_cache, slides_by_source
from slpd_toolkit.representations.models import DescribedModel, RegionModel, VectorTable
from slpd_toolkit.representations.opening import open_like
from slpd_toolkit.representations.vector_sources import open_table
from slpd_toolkit.store.schema import COHORT_FIELDS
from slpd_toolkit.store.token_file import token_paths

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import torch

    from slpd_toolkit.representations.models import Cache, Model
    from slpd_toolkit.representations.opening import InferenceOptions

_NAMED = re.compile(r"([A-Za-z0-9._-]+)=(.+)", re.DOTALL)
_FLAG = "--external"
_FREE = "precision"


@dataclass(frozen=True)
class ExternalPaths:
    """What `--external` names."""

    cache: Path | None
    tables: Mapping[str, Path]
    """Table of slide vectors of each model."""


@dataclass(frozen=True, eq=False)
class ExternalModels:
    """The models of the evaluation, opened for the external cohort."""

    models: Sequence[Model]
    """In the order of the evaluation's models."""
    cache: Cache | None
    by_source: Mapping[str, Collection[str]]
    """Slides with embeddings, by the name of their source in messages."""


def parse_external(values: Sequence[str], models: Sequence[Model]) -> ExternalPaths:
    """Sort the values of `--external` into one token cache, and tables by model.

    Args:
        values: `[name=]path`. A folder of token files is the cache; anything else is the table of the model `name`,
            which may be left out if a single model is a table.
        models: The models of the evaluation.

    Raises:
        UsageError: A path does not exist, a name is not that of a model of vectors, or something is missing.
    """
    of_tables = [model.name for model in models if isinstance(model, VectorTable)]
    cache, tables = None, dict[str, Path]()
    for value in values:
        match = None if Path(value).exists() else _NAMED.fullmatch(value)
        name, path = (match[1], Path(match[2])) if match else ("", Path(value))
        if not path.exists():
            raise UsageError(f"{_FLAG}: {path} does not exist.", hint="Pass a token cache, or a table of vectors.")
        if not name and path.is_dir() and token_paths(path):
            cache = path
            continue
        if not name and len(of_tables) == 1:
            name = of_tables[0]
        if name not in of_tables:
            wanted = f"name={path}, where name is one of {listed(of_tables)}" if of_tables else "a token cache"
            raise UsageError(f"{_FLAG}: got {value}, allowed: {wanted}.")
        tables[name] = path
    missing = [name for name in of_tables if name not in tables]
    if missing:
        raise UsageError(
            f"{_FLAG}: no table of the model {listed(missing)}.", hint=f"Add {_FLAG} {missing[0]}=vectors.npz."
        )
    if cache is None and len(of_tables) < len(models):
        raise UsageError(f"{_FLAG}: no token cache among {listed(values)}.", hint="Embed the external slides first.")
    return ExternalPaths(cache, tables)


@contextmanager
def open_external(
    values: Sequence[str],
    models: Sequence[Model],
    device: torch.device,
    workers: int,
    options: InferenceOptions,
    *,
    no_features: Collection[str],
    patient_of: Mapping[str, str],
) -> Iterator[ExternalModels]:
    """Open the models of the evaluation for the external cohort.

    Args:
        values: Of `--external`.
        models: The models of the evaluation.
        device: Device of region ViTs.
        workers: Number of threads that read tokens ahead.
        options: Inference settings.
        no_features: Columns of the external manifest, which are not features.
        patient_of: Patient of each external slide.

    Raises:
        UsageError: Something is missing, or the external embeddings are not of the same kind; both sides are named.
        CacheError: The token cache is empty, mixed or damaged.
    """
    without = without_bundle(models)
    if without:
        raise UsageError(
            f"{_FLAG} with --model {listed(without)}: slide ViTs and means over stain views cannot be applied to "
            "another cohort.",
            hint="Write the vectors of slides with `slpd represent` and pass them as tables.",
        )
    paths = parse_external(values, models)
    with open_cache(paths.cache, device, workers) as cache:
        opened: list[Model] = []
        for model in models:
            if isinstance(model, VectorTable):
                table = open_table(model.name, paths.tables[model.name], no_features=no_features, patient_of=patient_of)
                _require_width(model, table)
                opened.append(table)
            elif (regions := regions_of(model)) is not None:
                assert cache is not None
                _require_same_tokens(regions, cache, paths.cache)
                console.warn_if(mask_warning(cache.store.files, trained=is_masked(regions.cache.store.files)))
                other = open_like(regions, cache, options)
                if isinstance(model, DescribedModel):
                    opened.append(DescribedModel(model.name, other, model.descriptor))
                else:
                    opened.append(replace(other, name=model.name))
        yield ExternalModels(opened, cache, slides_by_source(paths.cache, opened))


def _require_width(model: VectorTable, table: VectorTable) -> None:
    inside, outside = (next(iter(each.vectors.values())).shape[1] for each in (model, table))
    if inside != outside:
        raise UsageError(
            f"{_FLAG}: {table.source} has vectors of {outside:,} numbers, but {model.source} has {inside:,}.",
            hint="Compute the same features in the same order.",
        )


def _require_same_tokens(model: RegionModel, cache: Cache, path: Path | None) -> None:
    inside, outside = model.cache.store.meta, cache.store.meta
    differences = [
        f"{name}: {getattr(inside, name)!r} in the training cohort, {getattr(outside, name)!r} in the external one"
        for name in COHORT_FIELDS
        if name != _FREE and getattr(inside, name) != getattr(outside, name)
    ]
    if differences:
        raise UsageError(
            f"{_FLAG}: the tokens in {path} differ from those of the evaluation: {'; '.join(differences)}.",
            hint="Embed both cohorts with the same encoder and geometry.",
        )
