"""`failures.csv`: what could not be done, why, and what to do; written anew at each failure, so a kill loses none."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

from slpd_toolkit.core.errors import SlpdError
from slpd_toolkit.core.files import remove_leftovers, write_csv

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

FILENAME = "failures.csv"


@dataclass(frozen=True)
class Failure:
    """One slide that a stage could not do."""

    stage: str
    slide_id: str
    path: str
    error: str
    hint: str

    @classmethod
    def of(cls, stage: str, slide_id: str, path: Path | str, error: BaseException) -> Failure:
        """Describe an exception; one that is not the user's keeps its type's name."""
        if isinstance(error, SlpdError):
            return cls(stage, slide_id, str(path), error.message, error.hint)
        if isinstance(error, OSError):
            return cls(stage, slide_id, str(path), f"{error}.", "Check the file, its permissions and the disk.")
        return cls(
            stage,
            slide_id,
            str(path),
            f"{type(error).__name__}: {error}",
            "Unexpected: please report it with this line.",
        )


class FailureLog:
    """The failures of one run, one a slide, kept on disk as they come.

    Args:
        path: CSV file with the columns stage, slide_id, path, error, hint. It is written at once, so that an earlier
            run's failures are gone; with only its header it says that nothing failed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Failure] = []
        remove_leftovers(path)
        self._write()

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, failure: Failure) -> None:
        """Record a failure; one of a slide that failed before is put beside the first."""
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
    """Put a sentence beside others, unless it stands there already."""
    return known if more in known else f"{known} {more}".strip()


def read_failures(folder: Path | None) -> pd.DataFrame:
    """Read failures.csv of a folder, and those of the shards of an array job (failures.3-of-8.csv).

    Returns:
        One row per failure with the columns stage, slide_id, path, error and hint, as text; empty if nothing failed.
    """
    import pandas as pd

    stem, _, suffix = FILENAME.rpartition(".")
    paths = [] if folder is None else sorted(folder.glob(f"{stem}*.{suffix}"))
    empty = pd.DataFrame(columns=[item.name for item in fields(Failure)], dtype=str)
    return pd.concat(
        [empty, *(pd.read_csv(path, dtype=str, keep_default_na=False) for path in paths)], ignore_index=True
    )
