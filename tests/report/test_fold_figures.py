from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from slpd_toolkit.core.figures.pictures import looks
from slpd_toolkit.report.fold_figures import draw_folds


def test_aggregators_with_different_numbers_of_folds_are_drawn_together() -> None:
    results: Any = [
        SimpleNamespace(model="m", aggregator=name, values={"auc": np.linspace(0.5, 0.9, folds)})
        for name, folds in (("probe", 15), ("trans-mil", 3))
    ]
    metric: Any = SimpleNamespace(words="AUC", chance=0.5)
    markers = draw_folds(results, "auc", metric, looks(["m"])).svg.count("<use ")
    fewer = draw_folds(results[1:], "auc", metric, looks(["m"])).svg.count("<use ")
    assert markers - fewer >= 15
