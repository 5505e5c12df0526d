"""Shrunken twins of published encoders, written from model cards and other projects' sources, not from our presets.

A twin calls timm directly, transforms pixels with Pillow as the card's torchvision transform does, and pools by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from slpd_toolkit.encoders.preset import Preset, require_preset
from slpd_toolkit.encoders.timm import import_timm
from tests.encoders.published_layouts import to_beit3, to_dinov2, to_hugging_face, to_swin

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    State = dict[str, Tensor]

SMALL: dict[str, Any] = {"embed_dim": 48, "depth": 2, "num_heads": 3}
BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BIOPTIMUS = (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)
HIBOU = (0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816)
LUNIT = (0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464)


def cls(network: Any, images: Tensor) -> Tensor:
    tokens: Tensor = network.forward_features(images)
    return tokens[:, 0]


def cls_and_mean_from(first: int) -> Callable[[Any, Tensor], Tensor]:
    def pool(network: Any, images: Tensor) -> Tensor:
        tokens = network.forward_features(images)
        return torch.cat([tokens[:, 0], tokens[:, first:].mean(1)], dim=-1)

    return pool


def own(network: Any, images: Tensor) -> Tensor:
    features: Tensor = network(images)
    return features


def two_scales(network: Any, images: Tensor) -> Tensor:
    """MUSK's ms_aug: scales 1 and 2, the larger one in four tiles of the input's size."""
    side = images.shape[-1]
    large = F.interpolate(images, size=(2 * side, 2 * side), mode="bicubic")
    tiles = [large[:, :, y : y + side, x : x + side] for y in (0, side) for x in (0, side)]
    return torch.cat([cls(network, images), torch.stack([cls(network, tile) for tile in tiles]).mean(0)], dim=-1)


@dataclass(frozen=True)
class Twin:
    """One encoder by its card: timm architecture with arguments, transform, pooling, width of the full token."""

    name: str
    model: str
    arguments: dict[str, Any]
    normalisation: tuple[tuple[float, ...], tuple[float, ...]]
    patch_px: int
    width: int
    resize: tuple[int, Image.Resampling] | None = (224, BILINEAR)
    crop: int = 224
    pool: Callable[[Any, Tensor], Tensor] = cls
    layouts: tuple[Callable[[State], State], ...] = field(default=(dict,))
    small: bool = True

    def network(self, seed: int = 0) -> nn.Module:
        """The shrunken network with random weights, none at its initial value."""
        torch.manual_seed(seed)
        arguments = {**self.arguments, **(SMALL if self.small else {}), "num_classes": 0}
        network: nn.Module = import_timm().create_model(self.model, **arguments).eval()
        with torch.no_grad():
            for name, tensor in network.state_dict().items():
                if tensor.is_floating_point() and "running_var" not in name:
                    tensor.add_(torch.randn(tensor.shape), alpha=0.05)
        return network

    def tokens(self, network: nn.Module, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """Tokens of (N, S, S, 3) patches by the card."""
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in self.normalisation)
        images = [torch.from_numpy(self.transform(patch)).permute(2, 0, 1).float() / 255 for patch in pixels]
        with torch.no_grad():
            return self.pool(network, (torch.stack(images) - mean) / std)

    def transform(self, patch: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Resize and CenterCrop of torchvision, on a Pillow image."""
        picture = Image.fromarray(patch)
        if self.resize is not None:
            picture = picture.resize((self.resize[0], self.resize[0]), self.resize[1])
        first = round((picture.width - self.crop) / 2)
        return np.array(picture.crop((first, first, first + self.crop, first + self.crop)))

    def preset(self) -> Preset:
        """Our preset, as small as the twin, with its own transform, pooling and layouts."""
        preset = require_preset(self.name)
        if not self.small:
            return preset
        architecture = replace(preset.architecture, arguments={**preset.architecture.arguments, **SMALL})
        per_token = {"cls+mean": 2, "cls": 1}[preset.pooling] * (
            2 if preset.architecture.network == "two-scales" else 1
        )
        return replace(preset, architecture=architecture, width=48 * per_token)


def swiglu_packed(*arguments: Any, **keywords: Any) -> nn.Module:
    """Build timm's layer: timm takes seconds to import, and listing the twins must not."""
    layer: nn.Module = import_timm().layers.SwiGLUPacked(*arguments, **keywords)
    return layer


def swiglu() -> dict[str, Any]:
    return {"mlp_layer": swiglu_packed, "act_layer": nn.SiLU}


def twins() -> dict[str, Twin]:
    v, ls = {"img_size": 224, "dynamic_img_size": True}, {"init_values": 1e-5}
    hf, dino = (to_hugging_face,), (to_dinov2,)
    vit_l, reg_g, reg_b = "vit_large_patch16_224", "vit_giant_patch14_reg4_dinov2", "vit_base_patch14_reg4_dinov2"
    huge = {**v, **ls, "mlp_ratio": 5.3375, "global_pool": "", **swiglu()}
    mini = {"img_size": 224, **ls, "global_pool": "", "mlp_ratio": 5.33334, **swiglu()}
    uni2 = {**v, **ls, "patch_size": 14, "mlp_ratio": 2.66667 * 2, "no_embed_class": True, "reg_tokens": 8, **swiglu()}
    giga = {**v, **ls, "patch_size": 16, "mlp_ratio": 5.33334}
    hibou = {"img_size": 224, **ls, **swiglu()}
    from_5 = cls_and_mean_from(5)
    optimus = {"img_size": 224, **ls, "global_pool": "token"}
    listed = [
        Twin("uni", vit_l, {**v, **ls}, IMAGENET, 256, 1024),
        Twin("mstar", vit_l, {**v, **ls}, IMAGENET, 256, 1024),
        Twin("pathorchestra", vit_l, {**v, **ls}, IMAGENET, 256, 1024),
        Twin("uni2-h", "vit_giant_patch14_224", uni2, IMAGENET, 256, 1536),
        Twin("lunit-s8", "vit_small_patch8_224", v, LUNIT, 224, 384),
        Twin("lunit-s16", "vit_small_patch16_224", v, LUNIT, 224, 384),
        Twin("lunit-s8-imagenet", "vit_small_patch8_224", v, IMAGENET, 224, 384),
        Twin("lunit-s16-imagenet", "vit_small_patch16_224", v, IMAGENET, 224, 384),
        Twin("phikon", "vit_base_patch16_224", v, IMAGENET, 224, 768, layouts=(to_hugging_face, dict)),
        Twin("phikon-v2", vit_l, {**v, **ls}, IMAGENET, 224, 1024, layouts=(to_hugging_face, dict)),
        Twin("virchow", "vit_huge_patch14_224", huge, IMAGENET, 224, 2560, (224, BICUBIC), pool=cls_and_mean_from(1)),
        Twin(
            "virchow2",
            "vit_huge_patch14_224",
            {**huge, "reg_tokens": 4},
            IMAGENET,
            224,
            2560,
            (224, BICUBIC),
            pool=from_5,
        ),
        Twin("virchow2-cls", "vit_huge_patch14_224", {**huge, "reg_tokens": 4}, IMAGENET, 224, 1280, (224, BICUBIC)),
        Twin("h-optimus-0", reg_g, optimus, BIOPTIMUS, 224, 1536, None),
        Twin("h-optimus-1", reg_g, optimus, BIOPTIMUS, 224, 1536, None),
        Twin("h0-mini", reg_b, mini, BIOPTIMUS, 224, 768, None),
        Twin("h0-mini-mean", reg_b, mini, BIOPTIMUS, 224, 1536, None, pool=from_5),
        Twin("gigapath", "vit_giant_patch14_dinov2", giga, IMAGENET, 256, 1536, (256, BICUBIC)),
        Twin(
            "hibou-b",
            reg_b,
            {**hibou, "mlp_ratio": 2.66667 * 2},
            HIBOU,
            224,
            768,
            (224, BICUBIC),
            layouts=(*hf, *dino),
        ),
        Twin(
            "hibou-l",
            "vit_large_patch14_reg4_dinov2",
            {**hibou, "mlp_ratio": 5.34375},
            HIBOU,
            224,
            1024,
            (224, BICUBIC),
            layouts=(*hf, *dino),
        ),
        Twin("kaiko-s8", "vit_small_patch8_224", v, HALF, 256, 384),
        Twin("kaiko-s16", "vit_small_patch16_224", v, HALF, 256, 384),
        Twin("kaiko-b8", "vit_base_patch8_224", v, HALF, 256, 768),
        Twin("kaiko-b16", "vit_base_patch16_224", v, HALF, 256, 768),
        Twin(
            "kaiko-l14", "vit_large_patch14_reg4_dinov2", {"img_size": 518, "dynamic_img_size": True}, HALF, 256, 1024
        ),
        Twin(
            "midnight-12k",
            "vit_giant_patch14_dinov2",
            {"img_size": 224},
            HALF,
            224,
            3072,
            pool=cls_and_mean_from(1),
            layouts=hf,
        ),
        Twin(
            "gpfm", "vit_large_patch14_dinov2", {**v, **ls}, IMAGENET, 512, 1024, (224, BICUBIC), layouts=(dict, *dino)
        ),
        Twin(
            "musk",
            "beit3_large_patch16_224",
            {"img_size": 384, "global_pool": "token"},
            HALF,
            384,
            1024,
            (384, BICUBIC),
            384,
            layouts=(to_beit3,),
        ),
        Twin(
            "musk-ms",
            "beit3_large_patch16_224",
            {"img_size": 384, "global_pool": "token"},
            HALF,
            384,
            2048,
            (384, BICUBIC),
            384,
            two_scales,
            (to_beit3,),
        ),
        Twin("openmidnight", reg_g, {"img_size": 224}, IMAGENET, 224, 1536, layouts=dino),
        *(
            Twin(
                f"dinov2-{size[0]}",
                f"vit_{size}_patch14_dinov2",
                {"img_size": 518, "dynamic_img_size": True},
                IMAGENET,
                256,
                width,
                (224, BICUBIC),
                layouts=(dict, to_dinov2, to_hugging_face),
            )
            for size, width in {"small": 384, "base": 768, "large": 1024, "giant": 1536}.items()
        ),
        *(
            Twin(
                f"dinov3-{size[0]}",
                f"vit_{size}_patch16_dinov3",
                {"global_pool": "token"},
                IMAGENET,
                256,
                width,
                (224, BICUBIC),
            )
            for size, width in {"small": 384, "base": 768, "large": 1024}.items()
        ),
        Twin("resnet50", "resnet50", {}, IMAGENET, 256, 2048, pool=own, small=False),
        Twin(
            "ctranspath",
            "swin_tiny_patch4_window7_224",
            {"embed_layer": Stem},
            IMAGENET,
            224,
            768,
            pool=lambda network, images: network.forward_features(images).flatten(1, 2).mean(1),
            layouts=(to_swin,),
            small=False,
        ),
        Twin(
            "chief-ctranspath",
            "swin_tiny_patch4_window7_224",
            {"embed_layer": Stem},
            IMAGENET,
            256,
            768,
            pool=lambda network, images: network.forward_features(images).flatten(1, 2).mean(1),
            layouts=(to_swin,),
            small=False,
        ),
    ]
    return {twin.name: twin for twin in listed}


class Stem(nn.Module):
    """CTransPath's stem by its description: convolutions of 3, 3 and 1 px to 12, 24 and 96 channels."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__()
        self.grid_size, self.num_patches = (56, 56), 3136
        self.patch_size, self.img_size = (4, 4), (224, 224)
        self.proj = nn.Sequential(
            nn.Conv2d(3, 12, 3, 2, 1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 24, 3, 2, 1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.Conv2d(24, 96, 1),
        )
        self.norm = nn.LayerNorm(96)

    def forward(self, images: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.proj(images).movedim(1, 3))
        return normed
