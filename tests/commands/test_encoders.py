"""`slpd encoders`: the table, one entry in full, and the check of a weights file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from slpd_toolkit.cli.app import app
from slpd_toolkit.commands import encoders
from slpd_toolkit.config.encoders import EncodersConfig
from slpd_toolkit.core.errors import UsageError, WeightsError
from slpd_toolkit.core.files import sha256
from slpd_toolkit.encoders import weights as weights_module
from slpd_toolkit.encoders.golden import golden_picture, golden_vector, shown
from slpd_toolkit.encoders.preset import presets
from slpd_toolkit.encoders.registry import make_preset
from tests.encoders.test_weights import saved, with_digest
from tests.encoders.twins import twins

if TYPE_CHECKING:
    from pathlib import Path


def test_the_table_fits_80_columns_and_lists_every_encoder() -> None:
    lines = CliRunner().invoke(app, ["encoders"]).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert {line.split()[0] for line in lines[1::2]} == set(presets())
    (uni2,) = (number for number, line in enumerate(lines) if line.startswith("uni2-h "))
    assert re.fullmatch(r"uni2-h +1536 +256@0\.5 +cls +CC-BY-NC-ND-4\.0, gated", lines[uni2])
    assert lines[uni2 + 1] == "    MahmoodLab/UNI2-h: pytorch_model.bin"


@pytest.mark.parametrize("name", ["uni2-h", "prost40m", "handcrafted", "gigapath", "efficientnet-lite0"])
def test_one_encoder_is_described_in_full(name: str) -> None:
    said = " ".join(CliRunner().invoke(app, ["encoders", name]).stdout.split())
    preset = presets()[name]
    for part in (preset.about, f"{preset.width} numbers", preset.terms.licence, "source, all"):
        assert part in said
    if name == "gigapath":
        assert "resized to 256 px (bicubic, as Pillow does), central 224 px" in said
        assert "mean 0.485 0.456 0.406" in said


@pytest.fixture
def uni(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small UNI under its name, and its file."""
    monkeypatch.setattr(encoders, "require_preset", lambda *_: twins()["uni"].preset())
    return saved(twins()["uni"], tmp_path / "pytorch_model.bin")


@pytest.mark.slow
def test_check_prints_digest_shapes_and_the_vector_of_a_fixed_picture(
    uni: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encoders.run(EncodersConfig(name="uni", check=uni)) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"sha256 {sha256(uni)}" in said
    assert "not known here; compare it with the one on the download page" in said
    twin = twins()["uni"]
    expected = twin.tokens(twin.network(), golden_picture(256)[None])[0].numpy()
    numbers = said.partition("in fp32 on the CPU ")[2].split()[:8]
    assert np.allclose([float(number) for number in numbers], shown(expected), atol=2e-4)


@pytest.mark.slow
def test_check_fails_where_a_published_file_was_changed(
    uni: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = with_digest(twins()["uni"].preset(), "pytorch_model.bin", sha256(uni))
    monkeypatch.setattr(encoders, "require_preset", lambda *_: known)
    assert encoders.run(EncodersConfig(name="uni", check=uni)) == 0
    assert "the published file" in capsys.readouterr().out
    state = torch.load(uni, weights_only=True)
    tensor = state["norm.weight"].view(torch.int32)
    tensor[3] ^= 1 << 20  # one flipped bit
    torch.save(state, uni)
    assert encoders.run(EncodersConfig(name="uni", check=uni)) == 1
    assert "NOT that of the published pytorch_model.bin" in " ".join(capsys.readouterr().out.split())


def test_check_refuses_what_is_no_weights_file_of_the_encoder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="encoder random has no weights file"):
        encoders.run(EncodersConfig(name="random", check=tmp_path / "w"))
    with pytest.raises(WeightsError, match="no such weights file"):
        encoders.run(EncodersConfig(name="uni", check=tmp_path / "w"))


@pytest.mark.slow
def test_check_without_a_name_finds_out_whose_weights_a_file_contains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {name: twins()[name].preset() for name in ("uni", "mstar", "uni2-h")}
    monkeypatch.setattr(weights_module, "presets", lambda: small)
    path = saved(twins()["uni2-h"], tmp_path / "weights.bin")
    assert encoders.run(EncodersConfig(check=path)) == 0
    said = capsys.readouterr().out
    assert f"sha256 {sha256(path)}\n{path} is a file with the names and shapes of: uni2-h.\n" in said
    assert f"slpd encoders uni2-h --check {path}" in said
    path = saved(twins()["uni"], path)
    assert encoders.run(EncodersConfig(check=path)) == 0
    assert "the names and shapes of: uni, mstar.\nThe file alone cannot distinguish these." in capsys.readouterr().out
    small["mstar"] = with_digest(small["mstar"], "mSTAR.pth", sha256(path))
    assert encoders.run(EncodersConfig(check=path)) == 0
    assert f"{path} is the published file of: mstar.\n" in capsys.readouterr().out
    torch.save({"weight": torch.ones(3)}, path)
    assert encoders.run(EncodersConfig(check=path)) == 1
    assert "its tensors are not those of any known encoder" in capsys.readouterr().err


PICTURE_SUM = 20_263_152


def test_the_fixed_picture_stays_what_it_is() -> None:
    """Another picture would make golden vectors of two versions incomparable."""
    picture = golden_picture(224)
    assert picture.shape == (224, 224, 3)
    assert picture.dtype == np.uint8
    assert picture[0, 0].tolist() == [0, 0, 200]
    assert picture[37, 101].tolist() == [115, 232, 206]
    assert int(picture.astype(np.int64).sum()) == PICTURE_SUM


@pytest.mark.slow
def test_the_golden_vector_is_repeatable(uni: Path) -> None:
    encoder = make_preset(twins()["uni"].preset(), weights=uni, patch_px=256, seed=0)
    assert np.array_equal(golden_vector(encoder, 256), golden_vector(encoder, 256))
    assert len(shown(golden_vector(encoder, 256))) == 8
