"""Rows of benchmarks/results/coverage.csv, and the tables of coverage.md."""

from __future__ import annotations

import csv
import re
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from slpd_toolkit.core.files import write_csv, write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from slpd_toolkit.mil.arrays import BoolArray

CSV, MD, SUMMARY = "coverage.csv", "coverage.md", "coverage-summary.md"
_KINDS = {
    "interval": "Intervals: coverage of the true area (mean width)",
    "interval of difference": "Intervals of differences: coverage (mean width)",
    "test, equal": "Tests, two representations that are equal in truth: rejected at 5 %",
    "test, power": "Tests, two representations that differ: rejected at 5 % (power)",
}


@dataclass(frozen=True)
class Row:
    """How often one method was right in one situation."""

    situation: str
    head: str
    folds: int
    repeats: int
    cohorts: int
    seed: int
    kind: str = ""
    method: str = ""
    truth: float = float("nan")
    sd: float = float("nan")
    """Standard deviation of the estimate over cohorts."""
    share: float = float("nan")
    """Share of cohorts covered, or rejected."""
    se: float = float("nan")
    """Standard error of the share."""
    width: float = float("nan")
    conservative: bool = False
    """Whether it is marked as conservative."""

    def with_share(self, hits: BoolArray, *, width: float = float("nan")) -> Row:
        """Fill in what was counted."""
        share = float(np.mean(hits))
        return replace(self, share=share, se=float(np.sqrt(share * (1 - share) / len(hits))), width=width)

    def __str__(self) -> str:
        return (
            f"{self.situation}, {self.folds} x {self.repeats}, {self.kind}: {self.method}: {self.share:.3f} (se "
            f"{self.se:.3f}, width {self.width:.3f}, truth {self.truth:.3f}, sd {self.sd:.3f})"
        )


def read_rows(folder: Path) -> list[Row]:
    """Read what an earlier run measured."""
    path = folder / CSV
    if not path.exists():
        return []
    casts: dict[str, Callable[[str], object]] = {"str": str, "int": int, "float": float, "bool": "True".__eq__}
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Row(**{field.name: cast("Any", casts[str(field.type)](row[field.name])) for field in fields(Row)})
            for row in csv.DictReader(file)
        ]


def write_rows(folder: Path, rows: Sequence[Row]) -> None:
    """Write all rows."""
    names = [field.name for field in fields(Row)]

    def short(value: object) -> object:
        return f"{value:.4f}" if isinstance(value, float) else value

    write_csv(folder / CSV, names, [{name: short(value) for name, value in asdict(row).items()} for row in rows])


def write_tables(folder: Path, rows: Sequence[Row], command: str) -> None:
    """Write a table per kind: a line per situation, a column per method."""
    lines = [
        "# Coverage of intervals and rejections of tests",
        "",
        f"`{command}`; {_range(rows)} cohorts per line, see coverage.csv. Standard errors are there",
        "as well: .015 of a share of .95 over 200 cohorts, .013 over 300, .009 over 600. *: printed as conservative.",
    ]
    for kind, title in _KINDS.items():
        chosen = [row for row in rows if row.kind == kind]
        methods = list(dict.fromkeys(row.method for row in chosen))
        if not chosen:
            continue
        lines += ["", f"## {title}", "", f"| situation | folds | truth | {' | '.join(methods)} |"]
        lines += [f"|---|---|---|{'---|' * len(methods)}"]
        for key in dict.fromkeys((row.situation, row.folds, row.repeats) for row in chosen):
            of = {row.method: row for row in chosen if (row.situation, row.folds, row.repeats) == key}
            truth = next(iter(of.values())).truth
            cells = [_cell(of[name]) if name in of else "" for name in methods]
            lines.append(f"| {key[0]} | {key[1]} x {key[2]} | {truth:.3f} | {' | '.join(cells)} |")
    write_text(folder / MD, "\n".join(lines) + "\n")


def _cell(row: Row) -> str:
    share = f"{row.share:.3f}{'*' * row.conservative}"
    return share if np.isnan(row.width) else f"{share} ({row.width:.2f})"


def _range(rows: Sequence[Row]) -> str:
    counts = [row.cohorts for row in rows]
    return f"{min(counts)} to {max(counts)}"


def write_summary(folder: Path, rows: Sequence[Row]) -> None:
    """Write the lowest and highest share over signals and class balances, by head, unit and division."""
    columns = {
        "interval, used": ("interval", "used"),
        "bootstrap": ("interval", "bootstrap over patients"),
        "difference, used": ("interval of difference", "used"),
        "t-test, used": ("test, equal", "used: t"),
        "permutation, used": ("test, equal", "used: permutation"),
        "plain permutation": ("test, equal", "permutation"),
        "corrected t": ("test, equal", "corrected t"),
        "DeLong over folds": ("test, equal", "DeLong over folds"),
    }
    lines = [
        f"| head, unit, folds x repeats | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for group in sorted({_group(row) for row in rows}, key=_order):
        cells = []
        for kind, method in columns.values():
            chosen = [row for row in rows if _group(row) == group and (row.kind, row.method) == (kind, method)]
            shares = sorted({f"{row.share:.3f}" for row in chosen})
            mark = "*" * any(row.conservative for row in chosen)
            cells.append(" to ".join(dict.fromkeys([*shares[:1], *shares[-1:]])) + mark)
        lines.append(f"| {group} | {' | '.join(cells)} |")
    lines += ["", "Power of the t-test and of the corrected t-test, patients split, areas in the first column:", ""]
    lines += ["| areas | folds x repeats | t-test | permutation | corrected t |", "|---|---|---|---|---|"]
    for key in dict.fromkeys((row.situation, row.folds, row.repeats) for row in rows if row.kind == "test, power"):
        of = {row.method: row.share for row in rows if (row.situation, row.folds, row.repeats) == key}
        powers = [f"{of[name]:.2f}" for name in ("used: t", "used: permutation", "corrected t")]
        lines.append(f"| {key[0]} | {key[1]} x {key[2]} | {' | '.join(powers)} |")
    write_text(folder / SUMMARY, "\n".join(lines) + "\n")


def _order(group: str) -> tuple[str, bool, list[int]]:
    return group.partition(",")[0], "sites" in group, [int(number) for number in re.findall(r"\d+", group)]


def _group(row: Row) -> str:
    _, _, sites = row.situation.rpartition(", ")
    unit = sites.removesuffix(" with marks") if "sites" in sites else "patients"
    return f"{row.head}, {unit}, {row.folds} x {row.repeats}"
