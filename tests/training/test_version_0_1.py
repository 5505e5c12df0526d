"""A run started by version 0.1 is resumed: `version_0_1.zip` contains its cache and folder, stopped at step 5 of 9.

`finished_metrics.csv` was written by version 0.1 for the same run without an interruption. Metrics are logged every
second step, so that the row of step 6 averages a step of version 0.1, stored in `sums`, and a step of this version.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from slpd_toolkit.commands import pretrain
from slpd_toolkit.config.pretrain import PretrainConfig
from slpd_toolkit.config.recipe import build
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.models.region_vit import RegionViT
from slpd_toolkit.training.metrics_file import read_metrics
from tests.training.runs import TIMINGS, checkpoint

STORED = Path(__file__).with_name("version_0_1.zip")
SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 4,
    "warmup_epochs": 1,
    "prototype_epoch": 1,
    "clusters": 2,
    "min_regions": 3,
    "global_side": 3,
    "local_side": 2,
    "local_crops": 1,
    "embed_dim": 6,
    "heads": 1,
    "mlp_ratio": 1.0,
    "depth": 1,
    "hidden_dim": 4,
    "bottleneck_dim": 4,
    "out_dim": 8,
    "lr": 0.002,
    "log_every": 2,
    "device": "cpu",
    "precision": "fp32",
}

pytestmark = pytest.mark.usefixtures("no_curves")


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    with zipfile.ZipFile(STORED) as archive:
        archive.extractall(tmp_path)
    return tmp_path


def resumed(folder: Path, **changes: Any) -> PretrainConfig:
    return build(PretrainConfig, {"cache": folder / "cache", "out": folder / "run", **SETTINGS, **changes})


@pytest.mark.slow
def test_a_run_of_version_0_1_is_resumed_as_it_would_have_continued(stored: Path) -> None:
    before = checkpoint(stored / "run")
    assert (before["step"], before["summed"], before["sums"].shape) == (5, 1, (7,))
    assert len(read_metrics(stored / "run/metrics.csv")) == 2
    assert pretrain.run(resumed(stored)) == 0
    rows, expected = read_metrics(stored / "run/metrics.csv"), read_metrics(stored / "finished_metrics.csv")
    assert [row["step"] for row in rows] == ["2", "4", "6", "8", "9"]
    for row, wanted in zip(rows, expected, strict=True):
        assert row.keys() - {"masked", "koleo"} == wanted.keys()
        for name in wanted.keys() - set(TIMINGS):
            value = wanted[name]  # other processors round differently, and small networks amplify it
            assert row[name] == value or float(row[name]) == pytest.approx(float(value), rel=2e-3), (row["step"], name)
    assert all(value.isfinite().all() for value in RegionViT.from_file(stored / "run/region_vit.pt").parameters())
    assert set(checkpoint(stored / "run")["sums"]) >= {"loss", "dino", "intra", "inter", "gradient_norm"}


def test_other_settings_than_those_of_version_0_1_are_refused(stored: Path) -> None:
    with pytest.raises(UsageError, match=r"other settings: intra_weight: 1.0 in the run, now 0.5"):
        pretrain.run(resumed(stored, intra_weight=0.5))
