"""`slpd manifest from-clam`: convert a label table of CLAM or HIPT to a manifest, and check splits against it."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from slpd_toolkit.core import console
from slpd_toolkit.core.cells import mark_text
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import atomic_path, claim_folder
from slpd_toolkit.core.folder_lock import writing_to
from slpd_toolkit.core.manifest import check_ids, summarise
from slpd_toolkit.core.text import agree, count, listed
from slpd_toolkit.mil.cohort.audit import audit_split
from slpd_toolkit.mil.cohort.clam_tables import patients_of_unlisted, read_labels
from slpd_toolkit.mil.cohort.split_kinds.split_files import read_splits, split_files
from slpd_toolkit.mil.cohort.splits import find_equal

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from slpd_toolkit.config.from_clam import FromClamConfig


def run(config: FromClamConfig) -> int:
    """Write the manifest, print a summary, and warn about inconsistencies.

    Returns:
        0.

    Raises:
        UsageError: The table or a split cannot be read, the output is not a .csv file in an existing folder,
            --slides-root is not a folder, or it contains several files with the name of a slide.
    """
    if config.out.suffix != ".csv" or not config.out.parent.is_dir():
        raise UsageError(f"--out: got {config.out}, allowed: a .csv file in a folder that exists.")
    if config.out.resolve() in {path.resolve() for path in (config.labels, *split_files(config.splits))}:
        raise UsageError(f"--out: {config.out} is one of the input tables.", hint="Choose another name.")
    with writing_to(config.out, "manifest from-clam"):
        return _write(config)


def _write(config: FromClamConfig) -> int:
    claim_folder(config.out.parent, (config.out.name,))
    table = read_labels(config.labels)
    problems = check_ids(table)
    if problems:
        raise UsageError(
            f"{config.labels}:\n{summarise(problems)}", hint="Correct these rows, and the same rows of the splits."
        )
    splits = read_splits(config.splits)
    if config.slides_root is not None:
        _set_paths(table, config.slides_root)
    with atomic_path(config.out) as partial:
        table.map(mark_text).to_csv(partial, index=False, lineterminator="\n")
    console.facts(f"Manifest {config.out}", _facts(table))
    _warn_about_inconsistencies(table)
    patient_of = dict(zip(table["slide_id"], table["patient_id"], strict=True))
    for split in splits:
        unknown = sorted({slide for part in split.parts.values() for slide in part} - patient_of.keys())
        if unknown:
            console.warn(
                f"Split {split.fold}: {count(len(unknown), 'slide is', 'slides are')} not in the table: "
                f"{listed(unknown)}."
            )
        for finding in audit_split(split, patient_of | patients_of_unlisted(unknown, patient_of)).findings:
            console.warn(f"Split {split.fold}: {finding}")
    for numbers in find_equal(splits):
        console.warn(f"Splits {listed(map(str, numbers))} are identical; `slpd mil-eval` will reject them.")
    if splits:
        console.note(f"To use these splits: slpd mil-eval ... {_as_flags(config.splits)}")
    return 0


def _set_paths(table: pd.DataFrame, root: Path) -> None:
    """Set the absolute path of slides found under `root`."""
    if not root.is_dir():
        raise UsageError(f"--slides-root: {root} is not a folder.", hint="Pass the folder that contains the slides.")
    wanted = set(table["slide_path"])
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in sorted(root.rglob("*")):
        if path.name in wanted and path.is_file():  # not a folder or a dangling link
            found[path.name].add(str(path.resolve()))
    absent = sorted(wanted - found.keys())
    if absent:
        console.warn(
            f"{len(absent)} of {count(len(wanted), 'slide')} {agree(len(absent), 'is', 'are')} not under {root}: "
            f"{listed(absent)}."
        )
    several = [f"{name} ({', '.join(sorted(paths))})" for name, paths in found.items() if len(paths) > 1]
    if several:
        raise UsageError(
            f"--slides-root: {count(len(several), 'file name exists', 'file names exist')} in more than one folder: "
            f"{listed(several)}.",
            hint="Remove or rename the duplicates, or use a --slides-root that contains each name once.",
        )
    table["slide_path"] = [next(iter(found.get(name, {name}))) for name in table["slide_path"]]


def _facts(table: pd.DataFrame) -> dict[str, str]:
    facts = {"slides": f"{len(table):,}", "patients": f"{table['patient_id'].nunique():,}"}
    if "site" in table:
        facts["sites"] = f"{table['site'].nunique():,}"
    if "label" in table:
        groups = table.dropna(subset="label").groupby("label")["patient_id"]
        facts["label"] = ", ".join(
            f"{name} {count(len(of), 'slide')} of {count(of.nunique(), 'patient')}" for name, of in groups
        )
        facts["without label"] = f"{table['label'].isna().sum():,}"
    if "time" in table:
        known = table[["time", "event"]].notna().all(axis=1)
        facts["survival"] = (
            f"{count(known.sum(), 'slide')} with time and event, {int(table['event'].eq(1).sum()):,} with event 1"
        )
    return facts


def _warn_about_inconsistencies(table: pd.DataFrame) -> None:
    for name in ("label", "site", "time"):
        if name not in table:
            continue
        values = table.dropna(subset=name).groupby("patient_id")[name].nunique()
        odd = values.index[values > 1]
        if len(odd):
            console.warn(
                f"{count(len(odd), 'patient has', 'patients have')} more than one {name}: {listed(odd)}. `slpd "
                "mil-eval` will reject them."
            )
    if (table["patient_id"] == "").any():
        console.warn(
            f"{count((table['patient_id'] == '').sum(), 'slide has', 'slides have')} no case_id; each of them counts "
            "as a separate patient."
        )


def _as_flags(paths: tuple[Path, ...]) -> str:
    return " ".join(f"--splits {path}" for path in paths)
