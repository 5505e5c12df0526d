"""`slpd search`: similar slides by the matching of prototypes, as a table and a page."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core import compute, console
from slpd_toolkit.core.errors import SlideError, UsageError
from slpd_toolkit.core.failures import FILENAME, FailureLog
from slpd_toolkit.core.files import is_safe_name, make_folder
from slpd_toolkit.core.folder_lock import locks_folder
from slpd_toolkit.core.manifest import SlideEntry, read_table
from slpd_toolkit.core.text import count
from slpd_toolkit.ingest.embedding.as_bundled import embed_as_bundled, embedding_settings
from slpd_toolkit.mil.bundle.origin import Origin
from slpd_toolkit.report.search_page import STAGE, RegionPictures, SearchPage, SlideRegions, write_search_page
from slpd_toolkit.report.thumbnails import slide_files
from slpd_toolkit.representations.bundled import tokens_of
from slpd_toolkit.representations.run_prototypes import cache_of_run, prototypes_of_file
from slpd_toolkit.representations.slide_index import SlideIndex
from slpd_toolkit.store.schema import SUFFIX
from slpd_toolkit.store.token_file import TokenFile, token_paths

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from slpd_toolkit.config.search import SearchConfig
    from slpd_toolkit.mil.set_similarity import Sets
    from slpd_toolkit.representations.slide_index import Match

_SHOWN_PAIRS = 4
_UNSAFE = r"[^A-Za-z0-9._-]"


@dataclass(frozen=True, eq=False)
class Found:
    """Result of a search."""

    query: str
    """ID of the slide that was searched for."""
    matches: list[Match]
    """Most similar first."""
    groups: Groups
    page: Path
    failures: FailureLog


@dataclass(frozen=True, eq=False)
class Query:
    """What is searched for."""

    slide_id: str
    what: str | Sets
    """A slide of the index, or the prototypes of another slide."""
    regions: SlideRegions | None = None
    """Regions of a slide that is not part of the run."""
    entry: SlideEntry | None = None
    """Its slide file, if one was given."""


@dataclass(frozen=True)
class Groups:
    """Patients and sites of slides; a slide that is not in the manifest is a separate patient without a site."""

    patients: dict[str, str] = field(default_factory=dict)
    sites: dict[str, str] = field(default_factory=dict)


@locks_folder(STAGE, lambda config: config.folder)
def run(config: SearchConfig) -> int:
    """Print the table and write the page.

    Returns:
        0, or 1 if the pixels of some slides could not be shown; failures.csv lists these slides.

    Raises:
        UsageError: The source has no prototypes or vectors, the query is not in it, or the manifest cannot be read.
        CacheError: prototypes.h5 or the token file cannot be read.
        WeightsError: The run's state cannot be read.
    """
    found = find(config)
    return 1 if len(found.failures) else 0


def find(config: SearchConfig) -> Found:
    """Search, print the table and write the page; see `run`."""
    index = SlideIndex.open(config.source)
    console.warn_if(index.warning())
    groups = _groups(config)
    slides = slide_files(config.manifest, config.slides_root)
    query = _query(config, index, slides)
    name = query.slide_id
    allowed = _allowed(config, index, groups, name)
    if not allowed.any():
        raise UsageError(
            f"No slides to compare with {name}: all other slides are of the same patient or site.",
            hint="Use --no-other-patients or --no-other-sites.",
        )
    matches = index.search(query.what, top=config.top, allowed=allowed, candidates=config.candidates)
    _print(name, matches, groups)
    make_folder(config.folder)
    failures = FailureLog(config.folder / FILENAME)
    if query.entry is not None:
        slides = slides | {name: query.entry}
    pictures = RegionPictures(index.run, config.folder, config.nearest, slides, failures)
    path = config.folder / f"{re.sub(_UNSAFE, '_', name)}.html"
    sets = index.set_of(query.what) if isinstance(query.what, str) else query.what
    page = SearchPage(
        name,
        str(config.source),
        sets,
        matches,
        index.sets,
        groups.patients,
        groups.sites,
        _among(config),
        query.regions,
    )
    write_search_page(path, page, pictures)
    if len(failures):
        console.warn(f"{count(len(failures), 'slide is', 'slides are')} shown without pixels: see {failures.path}.")
    console.note(f"Page: {path}.")
    return Found(name, matches, groups, path, failures)


def _query(config: SearchConfig, index: SlideIndex, slides: Mapping[str, SlideEntry]) -> Query:
    """Find the query in the index, or compute its prototypes.

    Raises:
        UsageError: It is neither a slide of the index nor a file, or it is a file and the source is not a run.
    """
    path = Path(config.query)
    if config.query in index.slide_ids:
        return Query(config.query, config.query)
    if not path.is_file():
        raise _missing(config.query, index)
    if index.run is None:
        raise UsageError(
            f"QUERY: {path} is a file, which can only be searched for in a run folder, because the run's teacher "
            f"must embed it.",
            hint="Include the slide when you run `slpd represent`, then search for its slide ID.",
        )
    folder = config.source if config.source.is_dir() else config.source.parent
    entry = None if path.suffix == SUFFIX else _entry(path, slides)
    tokens = path if entry is None else _embed(config, folder, entry)
    sets, cluster, cosine, file = prototypes_of_file(folder, tokens, device=config.device, workers=config.workers)
    regions = SlideRegions(cluster, cosine, file.coords, file.meta.region_l0, file.meta.located)
    return Query(file.meta.slide_id, sets, regions, entry)


def _missing(query: str, index: SlideIndex) -> UsageError:
    slides = f"{index.origin} has {count(len(index), 'slide')}, such as {index.slide_ids[0]}"
    if index.run is None:
        return UsageError(f"QUERY: {query} is not in the vectors; {slides}.", hint="Use one of these slide IDs.")
    return UsageError(
        f"QUERY: {query} is neither a slide with prototypes nor a file; {slides}.",
        hint="Use one of these slide IDs, or the path of a slide file or of its token file. Slides with fewer regions "
        "than --min-regions of `slpd pretrain` have no prototypes; search for their token file.",
    )


def _entry(slide: Path, slides: Mapping[str, SlideEntry]) -> SlideEntry:
    """Describe a slide file, with the resolution that the manifest lists for it."""
    if not is_safe_name(slide.stem):
        raise UsageError(f"QUERY: {slide.stem!r} is not a valid slide ID.", hint="Rename or link the slide file.")
    listed = slides.get(slide.stem)
    return SlideEntry(0, slide.stem, slide, slide.stem, None if listed is None else listed.mpp_l0)


def _embed(config: SearchConfig, run: Path, entry: SlideEntry) -> Path:
    """Embed a slide file as the slides of the run's token cache were embedded; return its token file.

    Raises:
        UsageError: The cache no longer exists or was imported from another tool, or the encoder is not that of the
            cache.
        SlideError: The slide cannot be embedded.
    """
    slide, cache = entry.slide_path, cache_of_run(run)
    paths = token_paths(cache)
    if not paths:
        raise UsageError(
            f"QUERY: {slide} cannot be embedded like the slides of the run, because the run's token cache {cache} "
            "no longer exists.",
            hint="Embed the slide with `slpd embed` and the settings of that cache, then search for its token file.",
        )
    origin = Origin(
        "region-vit", str(run), "", 0, "full", "fp32", *tokens_of(TokenFile.open(paths[0]).meta, masked=False)
    )
    out = config.folder / "tokens"
    settings = embedding_settings(
        origin, manifest=config.manifest or slide, out=out, weights=config.weights, device=config.device, workers=1
    )
    make_folder(config.folder)
    failures = FailureLog(config.folder / FILENAME)
    embed_as_bundled(origin, settings, [entry], compute.resolve_device(config.device), failures)
    if len(failures):
        failed = failures.rows[0]
        raise SlideError(f"{slide}: {failed.error}", hint=failed.hint)
    return out / f"{entry.slide_id}{SUFFIX}"


def _among(config: SearchConfig) -> str:
    others = [name for name, on in (("patients", config.other_patients), ("sites", config.other_sites)) if on]
    return f"among slides of other {' and '.join(others)}" if others else "among all other slides"


def _groups(config: SearchConfig) -> Groups:
    if config.manifest is None:
        return Groups()
    needed = ("slide_id", config.site_column) if config.other_sites else ("slide_id",)
    table = read_table(config.manifest, required=needed).set_index("slide_id", drop=False)
    patients = (
        table["patient_id"].mask(table["patient_id"] == "", table["slide_id"])
        if "patient_id" in table
        else table["slide_id"]
    )
    sites = table[config.site_column] if config.site_column in table else table["slide_id"].map(lambda _: "")
    return Groups(dict(patients.items()), dict(sites.items()))  # type: ignore[arg-type]  # ids are text


def _allowed(config: SearchConfig, index: SlideIndex, groups: Groups, name: str) -> npt.NDArray[np.bool_]:
    """(N,) slides that may be found: never the query itself."""
    ids = index.slide_ids
    allowed = np.array([slide != name for slide in ids])
    if config.other_patients:
        own = groups.patients.get(name, name)
        allowed &= np.array([groups.patients.get(slide, slide) != own for slide in ids])
    if config.other_sites:
        site = groups.sites.get(name, "")
        if not site:
            raise UsageError(f"--other-sites: the manifest has no {config.site_column} for {name}.")
        allowed &= np.array([groups.sites.get(slide, "") not in {site, ""} for slide in ids])
    return allowed


def _print(name: str, matches: list[Match], groups: Groups) -> None:
    rows: list[dict[str, object]] = []
    for rank, match in enumerate(matches, start=1):
        pairs = [f"{k + 1}-{n + 1} {cosine:.2f}" for k, n, _, cosine in match.pairs]
        row: dict[str, object] = {"": rank, "slide": match.slide_id}
        if groups.patients:
            row["patient"] = groups.patients.get(match.slide_id, "")
        row["similarity"] = round(match.similarity, 3)
        row["matched prototypes, cosine"] = ", ".join(pairs[:_SHOWN_PAIRS]) + (
            ", ..." if len(pairs) > _SHOWN_PAIRS else ""
        )
        rows.append(row)
    console.table(f"Most similar to {name}", rows)
