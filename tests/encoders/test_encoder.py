from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from slpd_toolkit.encoders.encoder import Encoder, digest_of_state, freeze

if TYPE_CHECKING:
    from slpd_toolkit.encoders.preset import Interpolation

MEAN, STD = (0.7, 0.5, 0.3), (0.2, 0.25, 0.5)


class Keep(nn.Module):
    """Gives back what it sees."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def encoder(input_px: int) -> Encoder:
    return Encoder("keep", freeze(Keep()), 3 * input_px**2, input_px, MEAN, STD, "")


def pixels(side: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8, generator=generator)


def test_bytes_are_scaled_then_shifted_then_divided_channel_by_channel() -> None:
    seen = encoder(8).embed(pixels(8), "fp32").view(2, 3, 8, 8)
    for channel in range(3):
        expected = (pixels(8)[..., channel].double() / 255 - MEAN[channel]) / STD[channel]
        assert torch.allclose(seen[:, channel].double(), expected, atol=1e-6)


def test_bytes_and_floats_are_the_same_pixels() -> None:
    assert torch.equal(encoder(8).embed(pixels(8), "fp32"), encoder(8).embed(pixels(8).float(), "fp32"))


@pytest.mark.parametrize(
    ("side", "resize_px", "input_px", "interpolation"),
    [(32, 0, 8, "bicubic"), (28, 0, 24, "bilinear"), (12, 20, 16, "bicubic"), (24, 24, 15, "bicubic")],
)
def test_patches_of_another_size_are_resized_as_by_pillow_then_cropped_then_normalised(
    side: int, resize_px: int, input_px: int, interpolation: Interpolation
) -> None:
    resized = replace(encoder(input_px), resize_px=resize_px, interpolation=interpolation)
    seen = resized.embed(pixels(side), "fp32").view(2, 3, input_px, input_px)
    wanted, kernel = resize_px or input_px, Image.Resampling[interpolation.upper()]
    first = (wanted - input_px) // 2
    for patch, ours in zip(pixels(side).numpy(), seen, strict=True):
        picture = Image.fromarray(patch).resize((wanted, wanted), kernel)
        picture = picture.crop((first, first, first + input_px, first + input_px))
        expected = (torch.from_numpy(np.array(picture)).double() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
        assert torch.allclose(ours.double(), expected.permute(2, 0, 1), atol=1e-5)


def test_a_flat_colour_stays_what_it_is_under_resizing() -> None:
    flat = torch.full((1, 256, 256, 3), 100, dtype=torch.uint8)
    seen = encoder(224).embed(flat, "fp32").view(3, -1)
    expected = (100 / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.allclose(seen, expected[:, None].expand_as(seen), atol=1e-5)


def test_tokens_are_float32_without_gradients_at_any_precision() -> None:
    small = Encoder("linear", freeze(nn.Sequential(Keep(), nn.Linear(192, 5))), 5, 8, MEAN, STD, "")
    exact = small.embed(pixels(8), "fp32")
    half = small.embed(pixels(8), "bf16")
    assert exact.dtype == half.dtype == torch.float32
    assert not exact.requires_grad
    assert not torch.equal(exact, half)
    assert torch.allclose(exact, half, atol=0.1)


def test_a_frozen_network_neither_trains_nor_drops() -> None:
    network = freeze(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)))
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_the_digest_covers_names_shapes_and_values() -> None:
    network = nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.arange(6.0).view(3, 2))
    digest = digest_of_state(network)
    assert digest == hashlib.sha256(b"weight(3, 2)" + np.arange(6, dtype="<f4").tobytes()).hexdigest()
    with torch.no_grad():
        network.weight[2, 1] += 1e-6
    assert digest_of_state(network) != digest
    turned = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        turned.weight.copy_(torch.arange(6.0).view(2, 3))
    assert digest_of_state(turned) != digest
