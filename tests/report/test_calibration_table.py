from __future__ import annotations

import numpy as np

from slpd_toolkit.mil.statistics.calibration import Calibration, Estimate
from slpd_toolkit.mil.statistics.intervals import Interval
from slpd_toolkit.mil.statistics.results import Result
from slpd_toolkit.report.calibration_table import calibration_rows

BRIER = Estimate(0.2, Interval(0.15, 0.25, 90, conservative=True))


def result(calibration: Calibration | None) -> Result:
    return Result("m", "abmil", (), {}, {}, calibration)


def test_measures_thresholds_and_their_rule_are_shown() -> None:
    found = Calibration(np.array([0.5, 2.0]), np.array([0.4, 0.4]), 0.95, {"brier_scaled": BRIER}, ())
    none, (row,) = calibration_rows([result(None)]), calibration_rows([result(found), result(None)])
    assert none == []
    assert (row.temperatures, row.thresholds) == ("0.50 to 2.00", "0.40")
    assert row.rule == "for a sensitivity of 0.95"
    assert row.estimates == {"Brier score, scaled": ("0.200", "[0.150, 0.250]*")}


def test_without_thresholds_there_is_no_column() -> None:
    (row,) = calibration_rows([result(Calibration(np.ones(2), np.zeros(0), None, {}, ()))])
    assert (row.thresholds, row.rule) == ("", "those of Youden's index")
