from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from slpd_toolkit.config.region_vit import DinoHeadConfig
from slpd_toolkit.models.dino_head import DinoHead, WeightNormLinear
from tests.published import relative_error

if TYPE_CHECKING:
    from tests.published import PublishedNumbers


@torch.no_grad()
def test_bottleneck_and_logits_are_those_of_the_published_code(published: PublishedNumbers) -> None:
    head = DinoHead(DinoHeadConfig(out_dim=published.meta["out_dim"])).eval()
    published.load_into(head)
    features = published.input("region_features", 10 * published.meta["B"], 192)
    assert relative_error(head.bottleneck(features), published["head/bottleneck"]) < 1e-5
    assert relative_error(head(features[:4]), published["head/logits_first4"]) < 1e-5


def test_every_row_of_the_last_layer_has_the_length_of_its_gain() -> None:
    layer = WeightNormLinear(8, 5)
    layer.weight_g.copy_(torch.arange(1.0, 6.0).unsqueeze(1))
    torch.testing.assert_close((layer.weight_v * layer.scale()).norm(dim=1), torch.arange(1.0, 6.0))
    x = torch.randn(3, 8)
    torch.testing.assert_close(layer(x), x @ (F.normalize(layer.weight_v, dim=1) * layer.weight_g).T)


def test_the_gain_is_fixed_at_one_and_keeps_its_published_name() -> None:
    head = DinoHead(DinoHeadConfig(out_dim=32))
    assert torch.equal(head.state_dict()["last_layer.weight_g"], torch.ones(32, 1))
    assert "last_layer.weight_g" not in dict(head.named_parameters())
