from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from slpd_toolkit.cli.app import app
from slpd_toolkit.encoders import presets as package
from slpd_toolkit.encoders.layouts import CONVERSIONS
from slpd_toolkit.encoders.preset import presets, require_preset
from slpd_toolkit.encoders.weights import NETWORKS

if TYPE_CHECKING:
    from pathlib import Path

SOURCED = ("model", "transform", "pooling", "width", "patches", "precision", "licence", "parameters_m")
ASKED_FOR = """hipt ctranspath chief-ctranspath lunit-s8 lunit-s16 phikon phikon-v2 uni uni2-h conch conch-v1.5 virchow
virchow2 h-optimus-0 h-optimus-1 h0-mini gigapath hibou-b hibou-l kaiko-s8 kaiko-s16 kaiko-b8 kaiko-b16 kaiko-l14
midnight-12k gpfm musk prost40m openmidnight keep mstar resnet50 resnet50-clam dinov2-b dinov3-b efficientnet-lite0"""
DUMMY = """
[dummy]
about = "A dummy"
network = "stain-statistics"
parameters_m = 0.0
transform = { normalisation = "none" }
patch_px_multiple = 16
pooling = "statistics"
width = 37
patches = [[64, 1.0]]
precision = "any"
licence = "Apache-2.0"
gated = false
publisher = "nobody/dummy"
weights = { kind = "none" }
sources = { all = "a test" }
"""


def test_the_encoders_of_the_field_are_there() -> None:
    assert set(ASKED_FOR.split()) <= set(presets())


@pytest.mark.parametrize("name", list(presets()))
def test_an_entry_is_whole_and_each_of_its_values_has_a_source(name: str) -> None:
    preset = require_preset(name)
    assert all("all" in preset.sources or value in preset.sources for value in SOURCED)
    assert preset.architecture.network in NETWORKS.names()
    assert set(preset.weights.layouts) <= set(CONVERSIONS)
    assert bool(preset.weights.layouts) == (preset.weights.kind in {"file", "package"})
    assert all(len(digest) in {0, 64} for digest in preset.weights.sha256.values())
    assert preset.scales
    assert bool(preset.transform.input_px) or preset.patch_px_multiple > 1
    assert preset.transform.resize_px == 0 or preset.transform.resize_px >= preset.transform.input_px
    assert len(preset.about) <= 100
    assert preset.about[0].isupper() or preset.about.startswith(("kaiko", "mSTAR"))


def test_a_new_table_is_a_new_encoder_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dummy.toml").write_text(DUMMY)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    run = CliRunner().invoke
    listed = run(app, ["encoders"])
    assert f"\n{'dummy':18}  {37:5}  64@1      statistics  Apache-2.0\n    nothing to download" in listed.output
    assert "slpd encoders" in " ".join(run(app, ["embed", "--help"]).output.split())
    unknown = run(app, ["embed", "cohort.csv", "--out", str(tmp_path / "cache"), "--encoder", "dumy"])
    assert unknown.exit_code == 2
    assert "dummy" in unknown.stderr
    assert "Did you mean dummy?" in unknown.stderr
    assert "dummy: A dummy" in run(app, ["encoders", "dummy"]).output


def test_listing_encoders_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, slpd_toolkit.commands.encoders as e; e._list(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
