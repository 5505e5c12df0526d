"""Split files of CLAM or HIPT, splits_<number>.csv."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import agree, count, listed, natural_key
from slpd_toolkit.mil.cohort.clam_tables import read_split
from slpd_toolkit.mil.cohort.split_kind import SplitKind
from slpd_toolkit.mil.cohort.splits import find_equal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from slpd_toolkit.config.mil_eval import MilEvalConfig
    from slpd_toolkit.mil.cohort.inputs import Inputs
    from slpd_toolkit.mil.cohort.splits import Split

_NUMBER = re.compile(r"splits_(\d+)\.csv$")


class SplitFiles(SplitKind):
    """Splits read from --splits."""

    settings: ClassVar = frozenset({"splits"})

    @classmethod
    def divide(cls, inputs: Inputs, settings: MilEvalConfig) -> tuple[list[Split], list[str]]:
        """Read the files; if slides may be missing, leave out those that are not evaluated.

        Raises:
            UsageError: No files, slides that are not evaluated, an empty part, or duplicate splits.
        """
        if not settings.splits:
            raise UsageError(
                "--split-kind split-files requires --splits.", hint="Pass a splits_*.csv, or a folder with such files."
            )
        splits = read_splits(settings.splits)
        known = set(inputs.cohort.slides.tolist())
        named = {slide for split in splits for part in split.parts.values() for slide in part}
        notes = []
        absent = sorted(named - known)
        if absent:
            are = agree(len(absent), "is", "are")
            message = f"{count(len(absent), 'slide')} in the splits {are} not evaluated: {listed(absent)}."
            if not settings.allow_missing:
                raise UsageError(
                    message, hint="They lack a target or an embedding. Use --allow-missing to leave them out."
                )
            notes.append(message)
            splits = [split.restricted_to(known) for split in splits]
        unused = sorted(known - named)
        if unused:
            notes.append(f"{count(len(unused), 'slide is', 'slides are')} in no split: {listed(unused)}.")
        for split in splits:
            empty = [name for name, part in split.parts.items() if not part]
            if empty:
                raise UsageError(
                    f"Split {split.fold}: no slide in {', '.join(empty)} has both a target and an embedding.",
                    hint="Embed and label more slides, or use other splits.",
                )
        for numbers in find_equal(splits):
            raise UsageError(
                f"Splits {listed(map(str, numbers))} are identical, but would count as {count(len(numbers), 'fold')}.",
                hint="Pass each split only once.",
            )
        return splits, notes


def split_files(paths: Sequence[Path]) -> list[Path]:
    """Return the split files among paths and in folders, sorted by number.

    CLAM's `_bool` and descriptor tables are skipped.

    Raises:
        UsageError: A path does not exist, or a folder has no splits.
    """
    found = []
    for path in paths:
        if path.is_dir():
            inside = [each for each in path.glob("*.csv") if _number_in(each)]
            if not inside:
                raise UsageError(
                    f"--splits: {path} contains no splits_<number>.csv.", hint="Pass the folder with CLAM's splits."
                )
            found += sorted(inside, key=lambda each: natural_key(_number_in(each)))
        elif path.exists():
            found.append(path)
        else:
            raise UsageError(f"--splits: {path} does not exist.", hint="Pass a splits_*.csv or a folder of them.")
    return found


def read_splits(paths: Sequence[Path]) -> list[Split]:
    """Read split files. Splits are numbered by their file names if these numbers are unique, otherwise by position.

    Raises:
        UsageError: A file is not a table of splits.
    """
    files = split_files(paths)
    numbers = [_number_in(path) for path in files]
    named = all(numbers) and len(set(numbers)) == len(numbers)
    return [read_split(path, int(numbers[place]) if named else place) for place, path in enumerate(files)]


def _number_in(path: Path) -> str:
    match = _NUMBER.search(path.name)
    return match[1] if match else ""


SPLIT_KIND = SplitFiles
