from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from slpd_toolkit.models.patch_vit import PatchViT

if TYPE_CHECKING:
    from tests.published import PublishedNumbers


@pytest.mark.slow
@pytest.mark.parametrize(("side", "images"), [(256, 2), (224, 1)])
@torch.no_grad()
def test_embeds_patches_as_the_published_code_does(published: PublishedNumbers, side: int, images: int) -> None:
    model = PatchViT().eval()
    published.load_into(model)
    expected = published[f"patch_vit/{side}"]
    got = model(published.input(f"pixels{side}", images, 3, side, side))
    assert (got - expected).abs().max() < 1e-4


@torch.no_grad()
def test_last_attention_covers_cls_and_every_patch_of_any_grid() -> None:
    model = PatchViT(embed_dim=192, depth=2, heads=3).eval()
    attention = model.last_attention(torch.randn(2, 3, 32, 48))
    assert attention.shape == (2, 3, 1 + 2 * 3)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 3))


def test_sides_that_are_no_multiple_of_16_px_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 16 px, got 32 x 40"):
        PatchViT(embed_dim=192, depth=1, heads=3)(torch.zeros(1, 3, 32, 40))
