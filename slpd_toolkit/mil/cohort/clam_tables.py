"""Reading CLAM and HIPT tables: label CSVs as manifest columns, `splits_*.csv` as splits."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from slpd_toolkit.core.csv_tables import read_text_table
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import count, listed
from slpd_toolkit.mil.cohort.splits import Split

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_EXTENSION = ".svs"
_SLIDE_SUFFIX = re.compile(r"\.(svs|tiff?|ndpi|mrxs|scn|bif|svslide|vms|vmu)$", re.IGNORECASE)
_PARTS = ("train", "val", "test")
_TCGA_BARCODE = r"^TCGA-(\w{2})-\w{4}"
_TCGA_PATIENT = re.compile(r"TCGA-\w{2}-\w{4}(?=-|$)")


def read_labels(path: Path) -> pd.DataFrame:
    """Convert a CLAM or HIPT label table to manifest columns.

    Reads `case_id`, `slide_id` (with or without a slide suffix such as `.svs`) and, if present, `label` (otherwise
    `oncotree_code`), `site`, and `survival_months` with `censorship`, where 1 means censored, the inverse of `event`.

    Sites are read as text. Spreadsheets turn the TCGA site 05 into 5; the zero is restored if a TCGA barcode shows it.

    Returns:
        One row per slide: `slide_id`, `slide_path`, `patient_id`, and those of `site`, `label`, `time` (float) and
        `event` (Int64) that the table provides. Empty cells are missing values. The index is the row number in the
        file.

    Raises:
        UsageError: The file is not such a table, has duplicate slides, or times or censorship are not numbers.
    """
    table = _read_text(path, required=("case_id", "slide_id"))
    if table.empty:
        raise UsageError(f"{path} has no slides.", hint="Use a CLAM or HIPT table.")
    slide_ids = table["slide_id"].map(_without_suffix)
    bare = table.index[slide_ids == ""]
    if len(bare):
        raise UsageError(f"{path}: slide_id is empty in row {listed(map(str, bare))}.", hint="Fill or drop these rows.")
    twice = slide_ids[slide_ids.duplicated()]
    if len(twice):
        raise UsageError(
            f"{path}: {count(len(twice), 'duplicate slide')}: {listed(twice)}.", hint="Keep one row per slide."
        )
    manifest = pd.DataFrame(
        {
            "slide_id": slide_ids,
            "slide_path": table["slide_id"].where(table["slide_id"] != slide_ids, slide_ids + _EXTENSION),
            "patient_id": table["case_id"],
        }
    )
    if "site" in table:
        manifest["site"] = _sites(table)
    label = next((name for name in ("label", "oncotree_code") if name in table), None)
    if label:
        manifest["label"] = table[label].mask(table[label] == "")
    survival = [name for name in ("survival_months", "censorship") if name in table]
    if len(survival) == 1:
        raise UsageError(f"{path} has only {survival[0]}.", hint="Survival needs both survival_months and censorship.")
    if survival:
        times, censored = (_numbers(table, name, path) for name in survival)
        _require(
            times.isna() | np.isfinite(times) & (times >= 0),
            table["survival_months"],
            path,
            "a number of months, 0 or more",
        )
        _require(
            censored.isna() | censored.isin([0, 1]), table["censorship"], path, "1 (censored) or 0 (event observed)"
        )
        manifest["time"] = times
        manifest["event"] = (1 - censored).astype("Int64")
    return manifest


def read_split(path: Path, fold: int) -> Split:
    """Read a `splits_*.csv` of CLAM or HIPT, whose columns train, val and test list slide IDs.

    Raises:
        UsageError: The file is not such a table, a part is empty, or a slide is listed twice in a part.
    """
    table = _read_text(path, required=_PARTS)
    train, val, test = (tuple(_without_suffix(cell) for cell in table[name] if cell) for name in _PARTS)
    if {cell.lower() for cell in (*train, *val, *test)} == {"true", "false"}:
        raise UsageError(
            f"{path} contains true and false instead of slide IDs.",
            hint="Use CLAM's splits_N.csv, not its splits_N_bool.csv.",
        )
    empty = [name for name, part in zip(_PARTS, (train, val, test), strict=True) if not part]
    if empty:
        raise UsageError(f"{path}: {', '.join(empty)} is empty.", hint="A split needs slides in train, val and test.")
    for name, part in zip(_PARTS, (train, val, test), strict=True):
        twice = sorted(slide for slide, count in Counter(part).items() if count > 1)
        if twice:
            raise UsageError(
                f"{path}: {count(len(twice), 'slide is', 'slides are')} listed twice in {name}: {listed(twice)}.",
                hint="List each slide once; duplicates would count twice.",
            )
    return Split(fold, train, val, test)


def patients_of_unlisted(slides: Iterable[str], patient_of: Mapping[str, str]) -> dict[str, str]:
    """Return the patients of slides that are in a split but not in the label table.

    The first three parts of a TCGA barcode are the patient (TCGA-A8-A06P for `TCGA-A8-A06P-01Z-00-DX1`). If the table
    has another slide of that patient, the table's patient ID is used. Every slide without a barcode counts as a
    separate patient.

    Args:
        slides: Slide IDs that are not in the table.
        patient_of: Patient of every slide in the table.
    """
    names = {barcode: patient for slide, patient in patient_of.items() if (barcode := _tcga_patient(slide))}
    barcodes = {slide: _tcga_patient(slide) or slide for slide in slides}
    return {slide: names.get(barcode, barcode) for slide, barcode in barcodes.items()}


def _tcga_patient(slide: str) -> str:
    match = _TCGA_PATIENT.match(slide)
    return match[0] if match else ""


def _read_text(path: Path, required: tuple[str, ...]) -> pd.DataFrame:
    """Read all cells as text, so that pandas does not read the TCGA site NA as a missing value or 05 as a number."""
    return read_text_table(path, required, title=str(path), hint="Use a CLAM or HIPT table.")


def _without_suffix(name: str) -> str:
    """Return the slide ID: the file name without its slide suffix."""
    return _SLIDE_SUFFIX.sub("", name)


def _sites(table: pd.DataFrame) -> pd.Series[str]:
    in_barcode = table["case_id"].str.extract(_TCGA_BARCODE, expand=False)
    lost_zeros = in_barcode.str.lstrip("0") == table["site"]
    return table["site"].where(~lost_zeros, in_barcode)


def _numbers(table: pd.DataFrame, name: str, path: Path) -> pd.Series[float]:
    numbers = pd.to_numeric(table[name], errors="coerce")
    _require(numbers.notna() | (table[name] == ""), table[name], path, "a number")
    return numbers


def _require(fine: pd.Series[bool], cells: pd.Series[str], path: Path, allowed: str) -> None:
    wrong = cells[~fine]
    if len(wrong):
        found = listed(f"{cell!r} in row {row}" for row, cell in wrong.items())
        raise UsageError(f"{path}: {cells.name} is {found}.", hint=f"Allowed: {allowed}, or empty.")
