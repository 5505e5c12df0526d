"""`slpd inspect`: summarize the contents of a token file or a token cache."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import CacheError, UsageError
from slpd_toolkit.core.text import count
from slpd_toolkit.encoders.cache_check import normalisation_warning
from slpd_toolkit.store import schema
from slpd_toolkit.store.stain_folders import count_stain_views, stain_folder
from slpd_toolkit.store.token_file import TokenFile, TokenStore, open_token_files, token_paths

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from slpd_toolkit.config.inspect import InspectConfig
    from slpd_toolkit.mil.statistics.site_effects import SiteEffects
    from slpd_toolkit.store.schema import TokenMeta


@dataclass(frozen=True, eq=False)
class Inspection:
    """The contents of a token file or a token cache."""

    title: str
    """What was inspected."""
    files: tuple[TokenFile, ...]
    """The token files that can be read, sorted by slide_id."""
    broken: tuple[tuple[Path, CacheError], ...]
    """The other files, each with the reason."""
    facts: dict[str, str]
    """Description in words and units; empty if no file can be read."""


def run(config: InspectConfig) -> int:
    """Print a summary of a token file or a cache folder.

    Returns:
        0, or 1 if the cache contains files that cannot be read.

    Raises:
        UsageError: `path` does not exist, or contains no token file; or --by does not match the manifest.
        CacheError: A single file cannot be read, or the files of a cache do not belong together.
    """
    found = inspect_path(config.path)
    for _, problem in found.broken:
        console.error(problem.message, problem.hint)
    if found.facts:
        console.facts(found.title, found.facts)
        meta = found.files[0].meta
        console.warn_if(normalisation_warning(meta.encoder, meta.encoder_sha256, meta.mean, meta.std))
    if config.manifest is not None:
        from slpd_toolkit.report.evaluation_summary import print_site_effects  # imports scikit-learn

        print_site_effects([site_effects_of(config)])
    return 1 if found.broken else 0


def site_effects_of(config: InspectConfig) -> SiteEffects:
    """Measure how much the mean tokens of a cache depend on a column of the manifest.

    Raises:
        UsageError: `path` is a single file, or the manifest has no such column or none of the slides.
        CacheError: A file of the cache cannot be read.
    """
    from slpd_toolkit.representations.token_sites import site_effects_of_tokens  # imports torch

    assert config.manifest is not None
    if config.path.is_file():
        raise UsageError(f"--by: {config.path} is one slide.", hint="Pass the cache folder.")
    return site_effects_of_tokens(config.path, config.manifest, config.by, config.target)


def inspect_path(path: Path) -> Inspection:
    """Read the attributes of a token file, or of all token files of a cache. Raises the same errors as `run`."""
    hint = "Pass a .h5 file or a cache folder written by `slpd embed` or `slpd import`."
    if path.is_file():
        if path.suffix != schema.SUFFIX:
            raise UsageError(f"{path} is not a token file (*{schema.SUFFIX}).", hint=hint)
        file = TokenFile.open(path)
        return Inspection(f"Token file {path.name}", (file,), (), _file_facts(file))
    paths = token_paths(path)
    if not paths:
        state = "has no token file (*.h5)" if path.is_dir() else "does not exist"
        raise UsageError(f"{path} {state}.", hint=hint)
    found = list(open_token_files(path, paths))
    files = [each for each in found if isinstance(each, TokenFile)]
    broken = [(each, error) for each, error in zip(paths, found, strict=True) if isinstance(error, CacheError)]
    return Inspection(f"Token cache {path}", tuple(files), tuple(broken), _cache_facts(files, paths) if files else {})


def _file_facts(slide: TokenFile) -> dict[str, str]:
    slide.verify()
    meta = slide.meta
    return {
        "slide": f"{meta.slide_id}, {meta.slide_width_l0:,} x {meta.slide_height_l0:,} px at {meta.mpp_l0:.4g} um/px "
        f"({_millimetres(meta.slide_width_l0 * meta.mpp_l0)} x {_millimetres(meta.slide_height_l0 * meta.mpp_l0)})",
        "tokens": f"{count(len(slide), 'region')} x {meta.grid} x {meta.grid} patches x {meta.embedding_dim} features, "
        f"float16, {console.human_bytes(slide.path.stat().st_size)}",
        **_shared_facts(meta),
        **_versions([slide]),
        "region at level 0": f"{meta.region_l0:,} px, read at {meta.effective_mpp:.5g} um/px"
        + (f", upsampled by a factor of {meta.upsampling:.2f}" if meta.upsampling > 1 else ""),
        "tissue": _tissue(slide),
        **_missing(slide.missing_patches, len(slide) * meta.grid**2),
        "kept regions": f"at least {meta.min_tissue:.0%} tissue, and the region with the most tissue",
        **_source(meta),
        **_stain(meta),
        "slide fingerprint": meta.slide_fingerprint,
        "written by": f"slpd_toolkit {meta.toolkit_version}",
        "recipe": meta.recipe,
    }


def _cache_facts(files: list[TokenFile], paths: list[Path]) -> dict[str, str]:
    store = TokenStore(files)
    lengths = store.lengths
    return {
        "slides": f"{len(files):,}",
        "regions": f"{lengths.sum():,} in total; {lengths.min():,} to {lengths.max():,} per slide, median "
        f"{np.median(lengths):,.0f}",
        "patches": f"{count(lengths.sum() * store.grid**2, 'token')} of {store.embedding_dim} features (float16)",
        **_missing(sum(file.missing_patches for file in files), int(lengths.sum()) * store.grid**2),
        "size": console.human_bytes(sum(path.stat().st_size for path in paths)),
        **_stain(store.meta),
        **_stain_views(paths[0].parent),
        **_shared_facts(store.meta),
        **_versions(files),
    }


def _shared_facts(meta: TokenMeta) -> dict[str, str]:
    return {
        "region": f"{meta.region_px:,} px at {meta.target_mpp:g} um/px "
        f"({_millimetres(meta.region_px * meta.target_mpp)})",
        "patch": f"{meta.patch_px} px at {meta.target_mpp:g} um/px ({meta.patch_px * meta.target_mpp:g} um)",
        **_encoder_facts(meta),
    }


def _versions(slides: Sequence[TokenFile]) -> dict[str, str]:
    versions = sorted({slide.header.schema_version for slide in slides})
    note = "" if min(versions) >= schema.VERSION else "; files of version 1 have no checksums of the tokens"
    return {"schema": f"{schema.SCHEMA} {' and '.join(map(str, versions))}{note}"}


def _encoder_facts(meta: TokenMeta) -> dict[str, str]:
    if not meta.mean:  # imported: the files do not record the rest
        return {"encoder": meta.encoder, "encoder weights": meta.encoder_sha256}
    return {
        "encoder": f"{meta.encoder}, input {meta.encoder_input_px} px, {meta.precision}",
        "encoder weights": f"sha256 {meta.encoder_sha256}",
        "normalization": f"mean {_numbers(meta.mean)}, std {_numbers(meta.std)} of RGB in 0-1",
    }


def _source(meta: TokenMeta) -> dict[str, str]:
    """Describe the source of an imported slide."""
    if not meta.source:
        return {}
    source = json.loads(meta.source)
    return {
        "imported from": f"{source['tool']}: {', '.join(source['files'])}",
        "imported patches": f"{source['placed']:,} of {source['patches']:,}, moved to the grid by at most "
        f"{source['shift_max_l0'] * meta.mpp_l0:.3g} um (median {source['shift_median_l0'] * meta.mpp_l0:.3g} um)",
        **({"note": "; ".join(source["notes"])} if source["notes"] else {}),
    }


def _stain(meta: TokenMeta) -> dict[str, str]:
    """Describe the change of stain of a stain view."""
    if not meta.stain:
        return {}
    about = json.loads(meta.stain)
    return {"stain": f"view {about.get('view')}, changed at random per slide (seed {about.get('seed')})"}


def _stain_views(cache: Path) -> dict[str, str]:
    """Describe the stain views of a cache."""
    folders = [stain_folder(cache, view) for view in range(1, count_stain_views(cache) + 1)]
    if not folders:
        return {}
    size = sum(path.stat().st_size for folder in folders for path in token_paths(folder))
    slides = [len(token_paths(folder)) for folder in folders]
    fewest = count(min(slides), "slide") if min(slides) == max(slides) else f"{min(slides):,} to {max(slides):,} slides"
    return {"stain views": f"{len(folders)}, each of {fewest}, {console.human_bytes(size)} in {folders[0].parent}"}


def _tissue(slide: TokenFile) -> str:
    if not len(slide):
        return "no regions"
    fractions = slide.tissue.astype(np.float32)
    by_region = fractions.mean(axis=(1, 2))
    return (
        f"{fractions.mean():.0%} of the regions' area; {by_region.min():.0%} to {by_region.max():.0%} per region; "
        f"{(fractions == 0).mean():.0%} of the patches have no tissue"
    )


def _missing(missing: int, patches: int) -> dict[str, str]:
    """Describe patches without tokens, which only some caches have."""
    return {"missing patches": f"{missing:,} of {patches:,} ({missing / patches:.1%})"} if missing else {}


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _millimetres(length_um: float) -> str:
    return f"{length_um / 1000:.2f} mm"
