"""Site effects of the mean tokens of a cache, before any training."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.cohort.inputs import patients_of, read_manifest
from slpd_toolkit.mil.cohort.sites import read_sites
from slpd_toolkit.mil.statistics.site_effects import measure_vectors
from slpd_toolkit.representations.cohort_bags import open_cache, represent_all
from slpd_toolkit.representations.opening import InferenceOptions, open_models
from slpd_toolkit.representations.sources import parse_sources

if TYPE_CHECKING:
    from slpd_toolkit.mil.statistics.site_effects import SiteEffects

_MEAN_TOKENS = "mean-tokens"


def site_effects_of_tokens(cache: Path, manifest: Path, column: str, target: str, workers: int = 2) -> SiteEffects:
    """Measure how well the site is predicted from mean tokens, and whether nearest slides share class or site.

    Args:
        cache: Token cache.
        manifest: Cohort CSV; slides that are not in the cache are ignored.
        column: Column of the site. TCGA barcodes are used if there is no column `site`.
        target: Column of the classes; without it, only the site is predicted.
        workers: Number of threads that read tokens ahead.

    Raises:
        UsageError: The manifest has no such column, or none of its slides is in the cache.
        CacheError: The cache is empty, mixed or damaged.
    """
    table = read_manifest(manifest).set_index("slide_id", drop=False)
    patient_of = patients_of(table.reset_index(drop=True))
    all_sites = read_sites(table, column) if column in table or column == "site" else None
    if all_sites is None:
        near = get_close_matches(column, table.columns, n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(
            f"--by {column}: the manifest has no such column, or it is empty{meant}.",
            hint=f"Found: {', '.join(table.columns)}.",
        )
    site_of = dict(zip(table.index, all_sites, strict=True))
    with open_cache(cache, torch.device("cpu"), workers) as opened:
        assert opened is not None
        slides = sorted(set(opened.files) & set(table.index))
        if not slides:
            raise UsageError(
                f"No slide of {manifest} is in {cache}: the manifest has {table.index[0]}, the cache "
                f"{opened.store.slide_ids[0]}.",
                hint="Compare the slide IDs: they must be spelled identically.",
            )
        options = InferenceOptions("fp32", "full", 0, Path())
        (representation,) = represent_all(open_models(parse_sources((_MEAN_TOKENS,)), opened, options), slides, opened)
    labels = None
    if target in table and (table.loc[slides, target] != "").all():
        labels = np.unique(table.loc[slides, target].to_numpy(np.str_), return_inverse=True)[1]
    patients = np.array([patient_of[slide] for slide in slides])
    sites = np.array([site_of[slide] for slide in slides])
    return measure_vectors(_MEAN_TOKENS, representation.bags, labels, patients, sites, seed=0)
