"""Report of an import: counts of this run, and `imported.csv` with a row per slide of the cache."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import CacheError
from slpd_toolkit.core.files import remove_leftovers, write_csv
from slpd_toolkit.core.text import count
from slpd_toolkit.store.token_file import TokenFile, token_paths

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from slpd_toolkit.core.failures import FailureLog
    from slpd_toolkit.foreign.features import SlideFeatures
    from slpd_toolkit.foreign.regrid import Placement
    from slpd_toolkit.store.schema import TokenMeta

FILENAME = "imported.csv"
_REASONS = {
    "sparse": "in regions with too few patches (--min-tissue)",
    "collisions": "whose cell has a nearer patch",
    "off_lattice": "too far from any cell (--tolerance)",
    "between": "that overlap the patches used",
    "augmented": "augmented copies",
}
_COLUMNS = (
    *("slide_id", "regions", "patches", "placed", *_REASONS),
    *("shift_median_um", "shift_max_um", "mpp_l0", "effective_mpp", "notes", "files"),
)


@dataclass
class ImportTally:
    """Completed work of the run."""

    slides: int = 0
    skipped: int = 0
    regions: int = 0
    patches: int = 0
    placed: int = 0
    bytes: int = 0
    largest_shift: float = 0.0
    """Patch sides."""
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The row of each slide in `FILENAME`."""
    notes: dict[str, int] = field(default_factory=dict)
    """Note -> number of slides."""
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self.started

    def count(self, slide: SlideFeatures, placement: Placement, meta: TokenMeta) -> None:
        """Count an imported slide."""
        report = placement.report
        self.regions += len(placement)
        self.patches += report.patches
        self.placed += report.placed
        self.largest_shift = max(self.largest_shift, report.shift_max_l0 / slide.patch_l0)
        for note in slide.notes:
            self.notes[note] = self.notes.get(note, 0) + 1
        self.rows[meta.slide_id] = _row(meta, len(placement))


def print_summary(tally: ImportTally, failures: FailureLog, out: Path) -> None:
    """Print a summary, the number of patches that were left out, and the files with details."""
    left_out = tally.patches - tally.placed
    console.facts(
        f"Token cache {out}",
        {
            "slides": f"{tally.slides:,} imported, {tally.skipped:,} already in the cache, {len(failures):,} failed",
            "regions": tally.regions,
            "patches": f"{tally.patches:,}: {tally.placed:,} placed, {left_out:,} left out",
            "moved": f"by at most {tally.largest_shift:.2f} patch sides to the grid",
            "time": f"{console.human_seconds(tally.seconds)}, {tally.bytes / 1e6 / tally.seconds:.0f} MB of features "
            "per second",
        },
    )
    if left_out:
        reasons = {name: sum(int(row[name]) for row in tally.rows.values()) for name in _REASONS}
        said = ", ".join(f"{count:,} {_REASONS[name]}" for name, count in reasons.items() if count)
        console.note(f"Left out: {said}. See {out / FILENAME} for the counts per slide.")
    for note, slides in tally.notes.items():
        console.warn(f"{note} ({count(slides, 'slide')}).")
    if failures.rows:
        console.warn(
            f"{count(len(failures.rows), 'slide')} failed; see {failures.path} for the reasons and what to do."
        )


def write_report(out: Path, done: Mapping[str, Mapping[str, Any]]) -> None:
    """List all imported slides of a cache; those of earlier runs are read from their token files.

    Args:
        out: The cache.
        done: Slide ID -> row, for the slides of this run.
    """
    rows = dict(done)
    for path in token_paths(out):
        if path.stem in rows:
            continue
        with suppress(CacheError, LookupError, TypeError, ValueError):  # not a token file, or not an imported one
            found = TokenFile.open(path)
            if found.meta.source:
                rows[path.stem] = _row(found.meta, len(found))
    remove_leftovers(out / FILENAME)
    write_csv(out / FILENAME, _COLUMNS, [rows[slide_id] for slide_id in sorted(rows)])


def _row(meta: TokenMeta, regions: int) -> dict[str, Any]:
    """Return the row of a slide, from the source recorded in its token file."""
    source = json.loads(meta.source)
    first, more = source["files"][0], source.get("file_count", len(source["files"])) - 1
    return {
        "slide_id": meta.slide_id,
        "regions": regions,
        **{name: source[name] for name in ("patches", "placed", *_REASONS)},
        "shift_median_um": round(source["shift_median_l0"] * meta.mpp_l0, 3),
        "shift_max_um": round(source["shift_max_l0"] * meta.mpp_l0, 3),
        "mpp_l0": round(meta.mpp_l0, 6),
        "effective_mpp": round(meta.effective_mpp, 6),
        "notes": "; ".join(source["notes"]),
        "files": f"{first} and {more} more" if more else first,
    }
