"""The one interface of patch encoders, and how pixels become what a network was trained on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from slpd_toolkit.core.compute import autocast
from slpd_toolkit.encoders.resampling import resize

if TYPE_CHECKING:
    from torch import Tensor, nn

    from slpd_toolkit.core.precision import Precision
    from slpd_toolkit.encoders.preset import Interpolation

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Encoder:
    """A frozen patch encoder and everything that determines its features.

    Args:
        name: As the user gave it.
        network: Maps (N, 3, input_px, input_px) normalized RGB to (N, embedding_dim); in eval mode.
        embedding_dim: Width of a token.
        input_px: Side that the network sees.
        mean: Per-channel mean that is subtracted from RGB in 0-1.
        std: Per-channel standard deviation that is divided by.
        weights_sha256: Digest of the weights; features of different digests are never mixed.
        resize_px: Side that patches of another size are resized to, on the device and as Pillow does; the central
            square of `input_px` is then cut out. 0: `input_px`.
        interpolation: How patches are resized.

    >>> encoder = slpd.load_encoder("random:vit_tiny", patch_px=32, seed=1)
    >>> encoder.embedding_dim, encoder.input_px
    (192, 32)
    >>> encoder.embed(torch.zeros(4, 32, 32, 3, dtype=torch.uint8), "fp32").shape
    torch.Size([4, 192])
    """

    name: str
    network: nn.Module
    embedding_dim: int
    input_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights_sha256: str
    resize_px: int = 0
    interpolation: Interpolation = "bicubic"

    def embed(self, pixels: Tensor, precision: Precision) -> Tensor:
        """Embed patches; normalization happens on the device, so that pixels are transferred as bytes.

        Args:
            pixels: (N, H, W, 3) uint8 RGB on the network's device.
            precision: Arithmetic of the network.

        Returns:
            (N, embedding_dim) float32 on the same device.
        """
        with torch.inference_mode():
            images = self._normalised(self._sized(pixels))
            with autocast(pixels.device, precision):
                tokens: Tensor = self.network(images)
        return tokens.float()

    def _sized(self, pixels: Tensor) -> Tensor:
        """Resize and crop: (N, H, W, 3) -> (N, input_px, input_px, 3)."""
        side = self.resize_px or self.input_px
        if pixels.shape[1:3] != (side, side):
            pixels = resize(pixels.permute(0, 3, 1, 2), side, self.interpolation).permute(0, 2, 3, 1)
        before = (side - self.input_px) // 2
        inside = slice(before, before + self.input_px)
        return pixels[:, inside, inside]

    def _normalised(self, pixels: Tensor) -> Tensor:
        scale = torch.tensor([1 / (255 * std) for std in self.std], device=pixels.device)
        shift = torch.tensor([-mean / std for mean, std in zip(self.mean, self.std, strict=True)], device=pixels.device)
        return torch.addcmul(shift, pixels.float(), scale).permute(0, 3, 1, 2)


def freeze(network: nn.Module) -> nn.Module:
    """Put a network into eval mode, without gradients."""
    return network.eval().requires_grad_(requires_grad=False)


def digest_of_state(network: nn.Module) -> str:
    """SHA-256 over names, shapes and values of parameters and buffers, for weights that are not from a file."""
    digest = hashlib.sha256()
    for key, tensor in network.state_dict().items():
        digest.update(f"{key}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
