"""Each preset against a twin that was written from the model's card: equal tokens from the published layout."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from slpd_toolkit.encoders.preset import presets, require_preset
from slpd_toolkit.encoders.registry import make_preset
from slpd_toolkit.encoders.timm import import_timm
from tests.encoders.twins import BICUBIC, BILINEAR, CLIP, IMAGENET, SMALL, Twin, cls, twins
from tests.slide_factory import tissue_on_glass

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

QUICK = ("uni2-h", "virchow2", "gigapath", "hibou-b", "phikon", "gpfm", "musk-ms")
OF_THEIR_OWN = {"conch", "conch-v1.5", "keep", "resnet50-clam", "prost40m", "hipt", "efficientnet-lite0"}
"""Tested below, or in files of their own."""


def pixels(side: int) -> npt.NDArray[np.uint8]:
    """Two patches of tissue with noise and edges."""
    picture = tissue_on_glass(2 * side, side, [(side // 7, side // 5, 2 * side, side)], mpp=0.5, seed=3)
    return np.stack([picture[:side, :side], picture[side - 9 :][:side, :side][::-1]])


def names() -> list[Any]:
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in twins()]


def test_every_preset_of_published_weights_has_a_twin() -> None:
    learned = {name for name, preset in presets().items() if preset.weights.kind in {"file", "package"}}
    assert learned == set(twins()) | OF_THEIR_OWN


@pytest.mark.parametrize("name", names())
def test_tokens_equal_those_of_the_twin_in_every_published_layout(name: str, tmp_path: Path) -> None:
    twin = twins()[name]
    network = twin.network()
    patches = pixels(twin.patch_px)
    expected = twin.tokens(network, patches)
    assert require_preset(name).width == twin.width
    assert require_preset(name).scales[0].patch_px == twin.patch_px
    for number, layout in enumerate(twin.layouts):
        path = tmp_path / f"{number}.pth"
        torch.save({"teacher": layout(dict(network.state_dict()))}, path)
        encoder = make_preset(twin.preset(), weights=path, patch_px=twin.patch_px, seed=0)
        tokens = encoder.embed(torch.from_numpy(patches), "fp32")
        assert tokens.shape == expected.shape == (2, encoder.embedding_dim)
        assert not torch.allclose(expected[0], expected[1], atol=1e-2)
        assert torch.allclose(tokens, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def by_hand(state: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """CONCH's attention pooler, one head at a time."""
    width, heads = state["query"].shape[1], 8

    def normed(name: str, values: Tensor) -> Tensor:
        return F.layer_norm(values, values.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    keys = normed("ln_k", tokens)
    biases = state["attn.in_proj_bias"].chunk(3)
    q = normed("ln_q", state["query"]) @ state["attn.q_proj_weight"].T + biases[0]
    k = keys @ state["attn.k_proj_weight"].T + biases[1]
    v = keys @ state["attn.v_proj_weight"].T + biases[2]
    parts = []
    for head in range(heads):
        here = slice(head * width // heads, (head + 1) * width // heads)
        weight = torch.softmax(q[:, here] @ k[..., here].mT / (width // heads) ** 0.5, dim=-1)
        parts.append((weight @ v[..., here])[:, 0])
    return torch.cat(parts, dim=1) @ state["attn.out_proj.weight"].T + state["attn.out_proj.bias"]


def randomised(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.2)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conch", pytest.param("conch-v1.5", marks=pytest.mark.slow)])
def test_conch_pools_by_attention_before_its_projection(name: str, tmp_path: Path) -> None:
    if name == "conch":
        twin = Twin("", "vit_base_patch16_224", {}, CLIP, 512, 512, (448, BICUBIC), 448)
        keywords: dict[str, Any] = {}
    else:
        twin = Twin("", "vit_large_patch16_224", {}, IMAGENET, 512, 768, (448, BILINEAR), 448)
        keywords = {"init_values": 1.0}
    twin = replace(twin, arguments={"img_size": 448, "dynamic_img_size": True, **keywords})
    trunk, width = twin.network(), twin.width
    pooler = nn.ModuleDict(
        {
            "attn": nn.MultiheadAttention(width, 8, kdim=48, vdim=48),
            "ln_q": nn.LayerNorm(width),
            "ln_k": nn.LayerNorm(48),
        }
    )
    pool_state = {"query": torch.randn(1, width), **randomised(pooler).state_dict()}
    last = randomised(nn.LayerNorm(width))
    prefix = "visual." if name == "conch" else ""
    published = {
        **{f"{prefix}trunk.{key}": value for key, value in trunk.state_dict().items()},
        **{f"{prefix}attn_pool_contrast.{key}": value for key, value in pool_state.items()},
        **{f"{prefix}ln_contrast.{key}": value for key, value in last.state_dict().items()},
        f"{prefix}proj_contrast": torch.ones(width, width),
        f"{prefix}attn_pool_caption.query": torch.ones(256, width),
        "text.positional_embedding": torch.ones(128, width),
        "logit_scale": torch.ones(()),
    }
    torch.save(published, tmp_path / "w.bin")
    preset = require_preset(name)
    arguments = {**preset.architecture.arguments, **SMALL}
    small = replace(preset, architecture=replace(preset.architecture, arguments=arguments))
    encoder = make_preset(small, weights=tmp_path / "w.bin", patch_px=512, seed=0)
    assert preset.width == width

    def pool(network: Any, images: Tensor) -> Tensor:
        normed: Tensor = last(by_hand(pool_state, network.forward_features(images)))
        return normed

    expected = replace(twin, pool=pool).tokens(trunk, pixels(512))
    assert torch.allclose(encoder.embed(torch.from_numpy(pixels(512)), "fp32"), expected, atol=1e-4)


def test_keep_projects_its_cls_token_to_unit_length(tmp_path: Path) -> None:
    arguments = {"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True}
    twin = Twin("", "vit_large_patch16_224", arguments, IMAGENET, 256, 768, (224, BICUBIC))
    trunk, head = twin.network(), nn.Sequential(nn.Linear(48, 768), nn.GELU(), nn.Linear(768, 768))
    published = {
        **{f"visual.{key.replace('gamma', 'weight')}": value for key, value in trunk.state_dict().items()},
        **{f"visual_head.{key}": value for key, value in head.state_dict().items()},
        "text.embeddings.weight": torch.ones(3),
    }
    torch.save(published, tmp_path / "w.bin")
    preset = require_preset("keep")
    small = replace(
        preset, architecture=replace(preset.architecture, arguments={**preset.architecture.arguments, **SMALL})
    )
    encoder = make_preset(small, weights=tmp_path / "w.bin", patch_px=256, seed=0)
    expected = replace(twin, pool=lambda network, images: F.normalize(head(cls(network, images)), dim=-1)).tokens(
        trunk, pixels(256)
    )
    tokens = encoder.embed(torch.from_numpy(pixels(256)), "fp32")
    assert torch.allclose(tokens, expected, atol=1e-5)
    assert torch.allclose(tokens.norm(dim=1), torch.ones(2))


@pytest.mark.slow
def test_clam_s_resnet_is_the_mean_of_the_third_stage(tmp_path: Path) -> None:
    twin = Twin("", "resnet50", {}, IMAGENET, 256, 1024, small=False)
    full = twin.network()
    torch.save({**full.state_dict(), "fc.weight": torch.ones(1000, 2048), "fc.bias": torch.ones(1000)}, tmp_path / "w")
    stages = import_timm().create_model("resnet50", features_only=True, out_indices=(3,)).eval()
    stages.load_state_dict({k: v for k, v in full.state_dict().items() if not k.startswith("layer4.")}, strict=True)
    expected = replace(twin, pool=lambda network, images: network(images)[0].mean((2, 3))).tokens(stages, pixels(256))
    encoder = make_preset(require_preset("resnet50-clam"), weights=tmp_path / "w", patch_px=256, seed=0)
    assert torch.allclose(encoder.embed(torch.from_numpy(pixels(256)), "fp32"), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("name", list(presets()))
def test_the_full_network_has_the_parameters_of_the_card_and_the_width_of_the_preset(name: str) -> None:
    from slpd_toolkit.encoders.weights import build_network

    preset = require_preset(name)
    side = preset.transform.input_px or preset.scales[0].patch_px
    with torch.device("meta"):
        network = build_network(preset).eval()
        tokens = network(torch.zeros(1, 3, side, side))
    parameters = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert abs(parameters - preset.architecture.parameters_m) < 0.06
    assert tokens.shape == (1, preset.width)


PUBLISHED_M = {"uni2-h": 681.4, "phikon": 85.8, "ctranspath": 27.5}
"""Parameters in millions without classifier, from the cards."""


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED_M)
def test_quickly_that_a_few_full_networks_have_the_parameters_of_the_card(name: str) -> None:
    from slpd_toolkit.encoders.weights import build_network

    with torch.device("meta"):
        network = build_network(require_preset(name))
    assert abs(sum(parameter.numel() for parameter in network.parameters()) / 1e6 - PUBLISHED_M[name]) < 0.06


def transformers_models() -> dict[str, Callable[[Any], tuple[Any, int]]]:
    shape = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 224}
    registers = {"patch_size": 14, "num_register_tokens": 4, "use_swiglu_ffn": True, "mlp_ratio": 4}
    return {
        "phikon": lambda t: (
            t.ViTModel(t.ViTConfig(**shape, intermediate_size=192, layer_norm_eps=1e-6), add_pooling_layer=False),
            0,
        ),
        "phikon-v2": lambda t: (t.Dinov2Model(t.Dinov2Config(**shape, patch_size=16)), 0),
        "midnight-12k": lambda t: (t.Dinov2Model(t.Dinov2Config(**shape, patch_size=14, use_swiglu_ffn=True)), 1),
        "hibou-b": lambda t: (t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**shape, **registers)), 0),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["phikon", "phikon-v2", "midnight-12k", "hibou-b"])
def test_tokens_equal_those_of_the_transformers_library(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="dev extra")
    import_timm()  # declares the operators of torchvision that transformers cannot import with a CPU build of torch
    torch.manual_seed(0)
    model, first = transformers_models()[name](transformers)
    randomised(model.eval())
    model.save_pretrained(tmp_path)
    twin = twins()[name]
    patches = pixels(twin.patch_px)

    def pool(network: Any, images: Tensor) -> Tensor:
        states: Tensor = network(images).last_hidden_state
        return torch.cat([states[:, 0], states[:, 1:].mean(1)], dim=1) if first else states[:, 0]

    expected = replace(twin, pool=pool).tokens(model, patches)
    preset = twin.preset()
    arguments = dict(preset.architecture.arguments)
    if name in {"midnight-12k", "hibou-b"}:  # the library rounds the width of a gated MLP: here to 128 of 48
        arguments["mlp_ratio"] = _inner_width(tmp_path) / 48
    small = replace(preset, architecture=replace(preset.architecture, arguments=arguments))
    encoder = make_preset(small, weights=tmp_path / "model.safetensors", patch_px=twin.patch_px, seed=0)
    tokens = encoder.embed(torch.from_numpy(patches), "fp32")
    assert torch.allclose(tokens, expected, rtol=1e-4, atol=1e-4)


def _inner_width(folder: Path) -> int:
    (name,) = (name for name in load_file(folder / "model.safetensors") if "layer.0.mlp.weights_in.weight" in name)
    return int(load_file(folder / "model.safetensors")[name].shape[0])
