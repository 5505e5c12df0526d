"""`failures.csv`: what failed, why, and what to do. Written after each failure, so that a kill loses none."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from slpd_toolkit.core.cells import unmark_text
from slpd_toolkit.core.errors import SlpdError
from slpd_toolkit.core.files import append_csv, remove_leftovers, write_csv

if TYPE_CHECKING:
    import pandas as pd

FILENAME = "failures.csv"


@dataclass(frozen=True)
class Failure:
    """One slide that a stage could not process."""

    stage: str
    slide_id: str
    path: str
    error: str
    hint: str

    @classmethod
    def of(cls, stage: str, slide_id: str, path: Path | str, error: BaseException) -> Failure:
        """Describe an exception; unexpected exceptions are prefixed with the name of their type."""
        if isinstance(error, SlpdError):
            return cls(stage, slide_id, str(path), error.message, error.hint)
        if isinstance(error, OSError):
            return cls(stage, slide_id, str(path), f"{error}.", "Check the file, its permissions and the disk.")
        return cls(
            stage,
            slide_id,
            str(path),
            f"{type(error).__name__}: {error}",
            "Unexpected error: please report it with this line.",
        )


_COLUMNS = tuple(item.name for item in fields(Failure))


class FailureLog:
    """Failures of one run, one per slide, written to disk as they occur.

    Args:
        path: CSV file with the columns stage, slide_id, path, error, hint. It is written immediately, which removes the
            failures of an earlier run; a file with only a header means that nothing failed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Failure] = []
        self._index: dict[tuple[str, str], int] = {}
        remove_leftovers(path)
        self._write()

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, failure: Failure) -> None:
        """Record a failure; further failures of a slide in the same stage are appended to its row."""
        index = self._index.setdefault((failure.stage, failure.slide_id), len(self.rows))
        if index == len(self.rows) or not failure.slide_id:
            self.rows.append(failure)
            try:
                append_csv(self.path, _COLUMNS, asdict(failure))  # rewriting all rows would be quadratic in failures
            except FileNotFoundError:  # someone has removed it
                self._write()
            return
        known = self.rows[index]
        both = replace(known, error=_beside(known.error, failure.error), hint=_beside(known.hint, failure.hint))
        if both != known:
            self.rows[index] = both
            self._write()

    def _write(self) -> None:
        write_csv(self.path, _COLUMNS, [asdict(row) for row in self.rows])


def _beside(known: str, more: str) -> str:
    """Append a sentence to others unless it is already among them."""
    return known if more in known else f"{known} {more}".strip()


def read_failures(folder: Path | None) -> pd.DataFrame:
    """Read failures.csv of a folder, including those of the shards of an array job (failures.3-of-8.csv).

    Returns:
        One row per failure with the columns stage, slide_id, path, error and hint, as text; empty if nothing failed.
    """
    import pandas as pd

    stem, _, suffix = FILENAME.rpartition(".")
    paths = [] if folder is None else sorted(filter(Path.is_file, folder.glob(f"{stem}*.{suffix}")))
    empty = pd.DataFrame(columns=list(_COLUMNS), dtype=str)
    return pd.concat(
        [empty, *(pd.read_csv(path, dtype=str, keep_default_na=False).map(unmark_text) for path in paths)],
        ignore_index=True,
    )
