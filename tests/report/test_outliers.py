from __future__ import annotations

import numpy as np

from slpd_toolkit.report.outliers import find_outliers


def cohort(count: int = 20) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(0)
    return {
        f"s{index}": {
            "tissue_share": float(rng.uniform(0.25, 0.4)),
            "red": float(rng.normal(200, 3)),
            "green": float(rng.normal(150, 3)),
            "blue": float(rng.normal(180, 3)),
            "focus": float(rng.uniform(0.9, 1.1)),
            "mpp_l0": 0.25,
        }
        for index in range(count)
    }


def test_slides_that_are_alike_are_not_flagged() -> None:
    assert find_outliers(cohort()) == {}


def test_each_measure_flags_its_slide_the_worst_first() -> None:
    slides = cohort()
    slides["s3"]["tissue_share"] = 0.002
    slides["s4"]["red"] = 120.0
    slides["s5"]["focus"] = 0.3
    slides["s6"]["mpp_l0"] = 0.5
    slides["s7"]["focus"] = 3.0  # sharper than others is no fault
    found = find_outliers(slides)
    assert set(found) == {"s3", "s4", "s5", "s6"}
    assert next(iter(found)) in {"s3", "s6"}
    assert found["s3"][0].startswith("share of tissue 0.2%, median 3")
    assert found["s4"] == ["mean red 120, median 200"]
    assert "blurred" in found["s5"][0]
    assert found["s6"] == ["0.5 um/px at level 0, median 0.25"]


def test_few_slides_are_not_compared() -> None:
    slides = cohort(7)
    slides["s3"]["tissue_share"] = 0.002
    assert find_outliers(slides) == {}
