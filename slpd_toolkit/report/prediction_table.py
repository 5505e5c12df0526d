"""Predictions as rows of CSV files."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from slpd_toolkit.mil.bundle.bundle import FINAL

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from slpd_toolkit.mil.bundle.bundle import Bundle, Predictions

YES, NO, UNKNOWN = "yes", "no", "unknown"


def output_names(bundle: Bundle) -> list[str]:
    """Name the outputs as in the predictions.csv of an evaluation: probabilities, or the risk and survival."""
    readout = bundle.heads[0].readout
    if bundle.decision.classes:
        return [f"probability_{name}" for name in bundle.decision.classes]
    if readout.kind != "risk":
        return ["predicted"]
    return ["risk", *([] if readout.grid is None else [f"survival_{time:g}" for time in readout.grid.times.tolist()])]


def prediction_columns(bundle: Bundle, *, patients: bool) -> list[str]:
    """Return the columns of predictions.csv."""
    names = output_names(bundle)
    ranks = ["risk_percentile"] if "risk" in names else []
    return [
        "slide_id",
        *(["patient_id"] if patients else []),
        *("decision", *names, *(f"sd_{name}" for name in names), *ranks),
        *("distance", "distance_limit", "far_from_training"),
    ]


def prediction_rows(
    bundle: Bundle, found: Predictions, patient_of: Mapping[str, str] | None
) -> Iterator[dict[str, object]]:
    """Yield a row per slide; see `prediction_columns`."""
    names = output_names(bundle)
    limit = bundle.training.limit
    for row, slide in enumerate(found.slides):
        cells: dict[str, object] = {"slide_id": slide}
        if patient_of is not None:
            cells["patient_id"] = patient_of[slide]
        cells["decision"] = found.decisions[row]
        cells |= dict(zip(names, found.outputs[row].tolist(), strict=True))
        cells |= {
            f"sd_{name}": "" if math.isnan(value) else value
            for name, value in zip(names, found.spread[row].tolist(), strict=True)
        }
        if "risk" in names:
            cells["risk_percentile"] = float(found.percentiles[row])
        cells["distance"] = float(found.distances[row])
        cells["distance_limit"] = "" if math.isinf(limit) else limit
        cells["far_from_training"] = UNKNOWN if math.isinf(limit) else YES if found.unusual[row] else NO
        yield cells


def head_columns(bundle: Bundle) -> list[str]:
    """Return the columns of heads.csv."""
    return ["repeat", "fold", "slide_id", *output_names(bundle)]


def head_rows(bundle: Bundle, found: Predictions) -> Iterator[dict[str, object]]:
    """Yield the outputs of each head without temperature: those that the predictions.csv of the evaluation has."""
    names = output_names(bundle)
    for head in found.heads:
        repeat, _, fold = head.name.partition(".") if head.name != FINAL else (FINAL, "", "")
        for slide, values in zip(found.slides, head.raw.tolist(), strict=True):
            yield {"repeat": repeat, "fold": fold, "slide_id": slide, **dict(zip(names, values, strict=True))}
