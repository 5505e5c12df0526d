"""Labels and slide files of the viewer, from the given manifest or from those that the results were made from."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from slpd_toolkit.config.recipe import RECIPE
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.manifest import check_rows, read_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from slpd_toolkit.core.manifest import SlideEntry
    from slpd_toolkit.report.viewer.folder import Parts
    from slpd_toolkit.store.schema import TokenMeta

_NOT_CELLS = frozenset({"slide_id", "slide_path", "mask_path", "mpp"})


@dataclass(frozen=True)
class Listed:
    """What manifests say about slides, by slide ID."""

    entries: Mapping[str, SlideEntry] = field(default_factory=dict)
    """Slides with a usable file."""
    cells: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Patient, labels and further columns."""
    problems: Mapping[str, str] = field(default_factory=dict)
    """Why the file of a slide cannot be used."""
    read: tuple[Path, ...] = ()
    """The manifests."""
    given: bool = False
    """Whether the user named the manifest, instead of the files below the folder."""


def read_manifest(path: Path, slides_root: Path | None) -> Listed:
    """Read a manifest that the user named.

    Raises:
        UsageError: It cannot be read.
    """
    return _read([(path, slides_root)], given=True)


def recorded_manifests(parts: Parts, meta: TokenMeta | None, slides_root: Path | None) -> Listed:
    """Read the manifests named by the recipes in a folder, and CSVs next to them; missing ones are skipped.

    Args:
        parts: What the folder contains.
        meta: A token file of the cache, whose recipe names the manifest of `slpd embed`.
        slides_root: Base folder of relative slide paths, if the user named it.
    """
    sources = dict[Path, Path | None]()
    for recipe, folder in _recipes(parts, meta):
        named = recipe.get("manifest")
        path = _existing(named, folder) if isinstance(named, str) and named else None
        root = recipe.get("slides_root")
        base = _existing(root, folder) if isinstance(root, str) and root else None
        if path is not None:
            sources.setdefault(path, slides_root or base)
    if not sources:
        sources = {path: slides_root for path in sorted(parts.root.glob("*.csv")) if _is_manifest(path)}
    return _read(list(sources.items()), given=False)


def recorded_caches(parts: Parts) -> list[Path]:
    """Return the token caches that the recipes below a folder name and that exist, in order."""
    found = []
    for recipe, folder in _recipes(parts, None):
        named = recipe.get("cache")
        path = _existing(named, folder) if isinstance(named, str) and named else None
        if path is not None and path.is_dir():
            found.append(path)
    return list(dict.fromkeys(found))


def _recipes(parts: Parts, meta: TokenMeta | None) -> Iterator[tuple[Mapping[str, object], Path]]:
    """Yield each recipe with the folder that it belongs to."""
    if meta is not None:
        yield json.loads(meta.recipe), parts.caches[0] if parts.caches else parts.root
    for folder in dict.fromkeys((parts.root, *parts.evaluations, *parts.runs)):
        try:
            yield tomllib.loads((folder / RECIPE).read_text(encoding="utf-8")), folder
        except (OSError, ValueError):
            continue


def _existing(named: str, folder: Path) -> Path | None:
    """Find a recorded path, which may be relative to the working directory of that command."""
    for base in (Path.cwd(), folder, *folder.parents[:2]):
        if (base / named).exists():
            return base / named
    return None


def _is_manifest(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig") as handle:
            columns = {name.strip().strip('"') for name in handle.readline().split(",")}
    except (OSError, UnicodeDecodeError):
        return False
    return {"slide_id", "slide_path"} <= columns


def _read(sources: Sequence[tuple[Path, Path | None]], *, given: bool) -> Listed:
    entries: dict[str, SlideEntry] = {}
    cells: dict[str, dict[str, str]] = {}
    problems: dict[str, str] = {}
    read = []
    for path, root in sources:
        try:
            table = read_table(path, required=("slide_id",))
        except UsageError:
            if given:
                raise
            continue
        read.append(path)
        if "slide_path" in table:
            usable, wrong = check_rows(table, root or path.parent)
            entries = {entry.slide_id: entry for entry in usable} | entries
            problems = {each.slide_id: f"{each.error} {each.hint}".strip() for each in wrong} | problems
        for row in table.to_dict("records"):
            mine = {str(name): str(value) for name, value in row.items() if name not in _NOT_CELLS and value != ""}
            cells[row["slide_id"]] = mine | cells.get(row["slide_id"], {})
    problems = {slide: error for slide, error in problems.items() if slide not in entries}
    return Listed(entries, cells, problems, tuple(read), given)
