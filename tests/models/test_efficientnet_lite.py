"""EfficientNet-Lite0 against timm's, which reads the same published weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from slpd_toolkit.encoders.timm import import_timm
from slpd_toolkit.models.efficientnet_lite import EfficientNetLite0, from_published


@pytest.mark.slow
@pytest.mark.parametrize("side", [64, 96])
def test_tokens_equal_timm_s(side: int) -> None:
    """Both models list their tensors in the order of the layers, with the same shapes."""
    torch.manual_seed(0)
    theirs: Any = import_timm().create_model("tf_efficientnet_lite0", num_classes=0).eval()
    with torch.no_grad():
        for name, tensor in theirs.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape) if "running_var" in name else torch.randn(tensor.shape)
                tensor.add_(noise, alpha=0.02)
    ours = EfficientNetLite0().eval()
    state = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(state, strict=True)
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        tokens = ours(images)
        assert tokens.shape == (2, 1280)
        assert torch.allclose(tokens, theirs(images), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(tokens[0], tokens[1], atol=1e-4)


def test_published_names_are_renamed_and_the_classifier_is_dropped() -> None:
    published = {
        "_conv_stem.weight": torch.tensor(1.0),
        "_bn0.bias": torch.tensor(2.0),
        "_blocks.0._depthwise_conv.weight": torch.tensor(3.0),
        "_blocks.0._bn1.running_mean": torch.tensor(4.0),
        "_blocks.10._expand_conv.weight": torch.tensor(5.0),
        "_blocks.10._bn0.weight": torch.tensor(6.0),
        "_blocks.10._bn2.bias": torch.tensor(7.0),
        "_conv_head.weight": torch.tensor(8.0),
        "_bn1.weight": torch.tensor(9.0),
        "_fc.weight": torch.tensor(10.0),
    }
    names = {name: int(tensor) for name, tensor in from_published(published).items()}
    assert names == {
        "stem.conv.weight": 1,
        "stem.norm.bias": 2,
        "blocks.0.depthwise.conv.weight": 3,
        "blocks.0.depthwise.norm.running_mean": 4,
        "blocks.10.expand.conv.weight": 5,
        "blocks.10.expand.norm.weight": 6,
        "blocks.10.project.norm.bias": 7,
        "head.conv.weight": 8,
        "head.norm.weight": 9,
    }
