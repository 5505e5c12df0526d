"""Which splits an evaluation uses: its own, a column's, or those of files, thinned if fewer labels are asked for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import listed, natural_key
from slpd_toolkit.mil.cohort.clam_tables import read_split
from slpd_toolkit.mil.cohort.splits import cross_validation, find_equal, from_column
from slpd_toolkit.mil.cohort.training_subsets import keep_fraction, keep_shots

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from slpd_toolkit.config.mil_eval import MilEvalConfig
    from slpd_toolkit.mil.cohort.inputs import Inputs
    from slpd_toolkit.mil.cohort.splits import Split

_NUMBER = re.compile(r"splits_(\d+)\.csv$")


def divide(inputs: Inputs, config: MilEvalConfig) -> tuple[list[Split], list[str]]:
    """Make or read the splits.

    Returns:
        The splits, and what a reader must know of them.

    Raises:
        UsageError: They cannot be made or read, name slides that are not evaluated (unless slides may be missing), or
            leave a part that nothing can be learnt from.
    """
    cohort, notes = inputs.cohort, list[str]()
    if config.splits:
        splits, notes = _of_files(inputs, config)
    elif inputs.folds is not None:
        splits = from_column(cohort, inputs.folds, seed=config.seed)
    else:
        assert config.fold_count is not None
        splits = cross_validation(
            cohort, folds=config.fold_count, repeats=config.repeats, seed=config.seed, by_site=config.by_site
        )
    if config.shots:
        splits = keep_shots(splits, cohort, config.shots, seed=config.seed)
    elif config.train_fraction < 1:
        splits = keep_fraction(splits, cohort, config.train_fraction, seed=config.seed)
    row = {str(slide): index for index, slide in enumerate(cohort.slides)}
    for split in splits:
        inputs.task.objective(
            np.array([row[slide] for slide in split.train], dtype=np.int64)
        )  # refuses what it cannot learn
    return splits, notes


def split_files(paths: Sequence[Path]) -> list[Path]:
    """Split files and those of folders, in the order of their numbers; CLAM's `_bool` and descriptor tables are not.

    Raises:
        UsageError: A path that is not there, or a folder without splits.
    """
    found = []
    for path in paths:
        if path.is_dir():
            inside = [each for each in path.glob("*.csv") if _number_in(each)]
            if not inside:
                raise UsageError(
                    f"--splits: {path} has no splits_<number>.csv.", hint="Give the folder that holds CLAM's splits."
                )
            found += sorted(inside, key=lambda each: natural_key(_number_in(each)))
        elif path.exists():
            found.append(path)
        else:
            raise UsageError(f"--splits: {path} does not exist.", hint="Give a splits_*.csv, or a folder of them.")
    return found


def read_splits(paths: Sequence[Path]) -> list[Split]:
    """Read split files; a split's number is that in the file's name where all have different ones, else its place.

    Raises:
        UsageError: A file is no table of splits.
    """
    files = split_files(paths)
    numbers = [_number_in(path) for path in files]
    named = all(numbers) and len(set(numbers)) == len(numbers)
    return [read_split(path, int(numbers[place]) if named else place) for place, path in enumerate(files)]


def _number_in(path: Path) -> str:
    match = _NUMBER.search(path.name)
    return match[1] if match else ""


def _of_files(inputs: Inputs, config: MilEvalConfig) -> tuple[list[Split], list[str]]:
    splits = read_splits(config.splits)
    known = set(inputs.cohort.slides.tolist())
    named = {slide for split in splits for part in split.parts.values() for slide in part}
    notes = []
    absent = sorted(named - known)
    if absent:
        message = f"{len(absent)} slides of the splits are not evaluated: {listed(absent)}."
        if not config.allow_missing:
            raise UsageError(message, hint="They need a target and an embedding; --allow-missing leaves them out.")
        notes.append(message)
        splits = [split.restricted_to(known) for split in splits]
    unused = sorted(known - named)
    if unused:
        notes.append(f"{len(unused)} slides are in no split: {listed(unused)}.")
    for split in splits:
        empty = [name for name, part in split.parts.items() if not part]
        if empty:
            raise UsageError(
                f"Split {split.fold}: no slide of {', '.join(empty)} has a target and an embedding.",
                hint="Embed and label more slides, or take other splits.",
            )
    for numbers in find_equal(splits):
        raise UsageError(
            f"Splits {listed(map(str, numbers))} divide the slides alike, and would count as {len(numbers)} folds.",
            hint="Give each split once.",
        )
    return splits, notes
