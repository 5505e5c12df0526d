"""Which slides of a manifest are evaluated."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from slpd_toolkit.config.mil_eval import MilEvalConfig
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.cohort.inputs import read_inputs

TABLE = pd.DataFrame(
    {
        "slide_id": [f"s{number}" for number in range(8)],
        "label": list("aabbaabb"),
        "patient_id": list("ppqqrrtt"),
        "part": ["train"] * 6 + ["test"] * 2,
    }
)


def config(**changes: object) -> MilEvalConfig:
    return MilEvalConfig(manifest=Path("m.csv"), model=("mean-tokens",), out=Path("eval"), **changes)  # type: ignore[arg-type]


def test_slides_that_where_leaves_out_are_neither_evaluated_nor_missing() -> None:
    embedded = {"the cache": TABLE["slide_id"].tolist()}
    inputs = read_inputs(TABLE, embedded, config(where=("part=train",)))
    assert inputs.cohort.slides.tolist() == TABLE["slide_id"].tolist()[:6]
    assert inputs.patient_of["s7"] == "t"  # the audit still knows the patients of all slides
    with pytest.raises(UsageError, match="1 slide of the cache is not in the manifest: s9"):
        read_inputs(TABLE, {"the cache": [*TABLE["slide_id"], "s9"]}, config(where=("part=train",)))
