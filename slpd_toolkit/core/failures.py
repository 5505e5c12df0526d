"""`failures.csv`: what failed, why, and what to do. Rewritten after each failure, so that a kill loses none."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from slpd_toolkit.core.cells import unmark_text
from slpd_toolkit.core.errors import SlpdError
from slpd_toolkit.core.files import remove_leftovers, write_csv

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


class FailureLog:
    """Failures of one run, one per slide, written to disk as they occur.

    Args:
        path: CSV file with the columns stage, slide_id, path, error, hint. It is written immediately, which removes the
            failures of an earlier run; a file with only a header means that nothing failed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Failure] = []
        remove_leftovers(path)
        self._write()

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, failure: Failure) -> None:
        """Record a failure; further failures of a slide in the same stage are appended to its row."""
        for index, known in enumerate(self.rows):
            if failure.slide_id and (known.stage, known.slide_id) == (failure.stage, failure.slide_id):
                error, hint = _beside(known.error, failure.error), _beside(known.hint, failure.hint)
                self.rows[index] = replace(known, error=error, hint=hint)
                break
        else:
            self.rows.append(failure)
        self._write()

    def _write(self) -> None:
        write_csv(self.path, [item.name for item in fields(Failure)], [asdict(row) for row in self.rows])


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
    empty = pd.DataFrame(columns=[item.name for item in fields(Failure)], dtype=str)
    return pd.concat(
        [empty, *(pd.read_csv(path, dtype=str, keep_default_na=False).map(unmark_text) for path in paths)],
        ignore_index=True,
    )
