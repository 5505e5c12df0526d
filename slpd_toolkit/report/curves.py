"""curves.svg: plots of the training metrics."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from slpd_toolkit.config.terms import term_names
from slpd_toolkit.core.files import write_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PANELS = (
    ("Losses", ("loss",)),
    ("Entropy of the teacher's targets (nats)", ("target_entropy",)),
    ("Norm of gradient and center", ("gradient_norm", "centre_norm")),
    ("Learning rate", ("lr",)),
    ("Regions or slides per second", ("regions_per_s", "slides_per_s")),
    ("Fraction of empty or degenerate clusters", ("clusters_empty", "clusters_degenerate")),
)


def draw_curves(path: Path, rows: Sequence[Mapping[str, str]], terms: Sequence[str] | None = None) -> None:
    """Plot the columns of metrics.csv over steps; columns without values are omitted.

    Args:
        path: The file.
        rows: Rows of metrics.csv.
        terms: Names of the terms of the objective; None for those of SLPD.
    """
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    terms = term_names() if terms is None else terms
    panels = [(title, (*columns, *terms) if columns == ("loss",) else columns) for title, columns in PANELS]
    for axes, (title, columns) in zip(figure.subplots(2, 3).flat, panels, strict=True):
        for column in columns:
            points = [(int(row["step"]), float(row[column])) for row in rows if row.get(column)]
            # A disabled term is always 0 and is not drawn.
            if any(value for _, value in points) or (points and column not in terms):
                axes.plot(*zip(*points, strict=True), label=column.replace("_", " "), linewidth=1.3)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        if len(columns) > 1 and axes.lines:
            axes.legend(fontsize=8, frameon=False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    write_text(path, buffer.getvalue())
