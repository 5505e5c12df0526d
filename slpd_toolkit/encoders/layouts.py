"""Layouts in which the weights of patch encoders are published, and how each becomes the names of our networks.

A layout is recognized by its tensor names. Every tensor is used, or is known to belong to another part of the
published model (text towers, pretraining heads, mask tokens); what is left over afterwards fails the strict loading.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from slpd_toolkit.core.errors import WeightsError
from slpd_toolkit.models.efficientnet_lite import from_published

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

State = dict[str, "Tensor"]

_CONTAINERS = ("teacher", "state_dict", "model")
_PREFIXES = ("module.", "backbone.")


def unwrap(checkpoint: Mapping[str, object], origin: object) -> State:
    """Return the tensors of a checkpoint under their bare names.

    Args:
        checkpoint: A state dict, or a dict that holds one under `teacher`, `state_dict` or `model`; names may begin
            with `module.` and `backbone.`.
        origin: The file, for messages.

    Raises:
        WeightsError: It holds no tensors.
    """
    found: Any = next((checkpoint[key] for key in _CONTAINERS if isinstance(checkpoint.get(key), dict)), checkpoint)
    state = {}
    for name, value in found.items():
        if isinstance(value, torch.Tensor):
            bare = name
            for prefix in _PREFIXES:
                bare = bare.removeprefix(prefix)
            state[bare] = value
    if not state:
        raise WeightsError(f"{origin} contains no tensors.", hint="Expected a state dict.")
    return state


def recognise(state: State) -> str:
    """Return the layout of a state dict, a key of `CONVERSIONS`."""
    names = "\n".join(state)
    for layout, pattern in _MARKS.items():
        if re.search(pattern, names, re.MULTILINE):
            return layout
    return "timm"


def convert(state: State, layouts: Sequence[str], origin: object) -> State:
    """Rename the tensors of a published file for our network.

    Args:
        state: What `unwrap` returned.
        layouts: Layouts in which this encoder is published.
        origin: The file, for messages.

    Raises:
        WeightsError: The file has another layout.
    """
    found = recognise(state)
    if found not in layouts:
        raise WeightsError(
            f"{origin}: its tensors have the names of the layout {found!r}, but this encoder is published as: "
            f"{', '.join(layouts)}.",
            hint="It is probably the file of another model; `slpd encoders` lists what to download.",
        )
    return CONVERSIONS[found](state)


def _timm(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith(("head.", "fc."))}


def _dinov2(state: State) -> State:
    """Original names of DINOv2: blocks in chunks, SwiGLU as `w12` and `w3`, registers apart from positions."""
    renamed = {}
    for name, tensor in state.items():
        if name == "mask_token" or name.startswith(("head.", "dino_head.", "ibot_head.")):
            continue
        new = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name)
        new = new.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.")
        renamed[new.replace("register_tokens", "reg_token")] = tensor
    return _positions_without_cls(renamed) if "reg_token" in renamed else renamed


def _hugging_face(state: State) -> State:
    """Names of the transformers library, of ViTModel and Dinov2Model with or without registers."""
    renamed: State = {}
    for name, tensor in state.items():
        bare = re.sub(r"^(vit|dinov2|dinov2_with_registers)\.", "", name)
        if bare != "embeddings.mask_token" and not bare.startswith(("pooler.", "classifier.")):
            renamed[_renamed(bare, _HUGGING_FACE)] = tensor
    joined = _join_qkv(renamed)
    return _positions_without_cls(joined) if "reg_token" in joined else joined


def _renamed(name: str, rules: Sequence[tuple[str, str]]) -> str:
    for pattern, new in rules:
        name = re.sub(pattern, new, name)
    return name


def _join_qkv(state: State) -> State:
    """Join `q_proj`, `k_proj` and `v_proj` into `qkv`; what is incomplete fails the strict loading."""
    joined: State = {}
    parts: dict[str, State] = {}
    for name, tensor in state.items():
        match = _QKV.match(name)
        if match is None:
            joined[name] = tensor
        else:
            parts.setdefault(f"{match[1]}qkv.{match[3]}", {})[match[2]] = tensor
    for name, found in parts.items():
        joined[name] = torch.cat([found[which] for which in "qkv" if which in found])
    return joined


def _positions_without_cls(state: State) -> State:
    """Move the position of the CLS token into the token: with registers, timm has positions for patches only."""
    positions = state["pos_embed"]
    return state | {"cls_token": state["cls_token"] + positions[:, :1], "pos_embed": positions[:, 1:]}


def _swin(state: State) -> State:
    """Original names of Swin, where a stage ends with the merging of patches that timm puts before the next."""
    return {
        re.sub(r"^layers\.(\d)\.downsample\.", lambda match: f"layers.{int(match[1]) + 1}.downsample.", name): tensor
        for name, tensor in state.items()
        if not name.endswith(("attn_mask", "relative_position_index")) and not name.startswith("head.")
    }


def _musk(state: State) -> State:
    """The image branch (`A`) of MUSK's BEiT-3; its text branch (`B`) and heads are left out."""
    renamed = {
        _renamed(name, _BEIT3): tensor
        for name, tensor in state.items()
        if name.startswith("beit3.") and ".B." not in name and name not in _BEIT3_UNUSED
    }
    if "pos_embed" in renamed:  # the first two of BEiT-3's positions are never used, and there is no batch axis
        renamed["pos_embed"] = renamed["pos_embed"][2:].unsqueeze(0)
    return _join_qkv(renamed)


def _conch(state: State) -> State:
    """CONCH's image tower up to the pooled token; text tower, captioning and projection are left out."""
    wanted = ("trunk.", "attn_pool_contrast.", "ln_contrast.")
    bare = {name.removeprefix("visual."): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in bare.items() if name.startswith(wanted)}


def _keep(state: State) -> State:
    """KEEP's image tower and projection."""
    return {
        re.sub(r"\.(ls[12])\.weight$", r".\1.gamma", name): tensor
        for name, tensor in state.items()
        if name.startswith(("visual.", "visual_head."))
    }


_QKV = re.compile(r"^(blocks\.\d+\.attn\.)([qkv])_proj\.(weight|bias)$")
_HUGGING_FACE = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^(?:encoder\.)?layers?\.", "blocks."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.(?:attention\.)?(?:(q)uery|(k)ey|(v)alue|([qkv])_proj)\.", r".attn.\1\2\3\4_proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.(?:intermediate\.dense|mlp\.fc1|mlp\.weights_in)\.", ".mlp.fc1."),
    (r"\.(?:output\.dense|mlp\.fc2|mlp\.weights_out)\.", ".mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
)
_BEIT3_UNUSED = ("beit3.text_embed.weight", "beit3.vision_embed.mask_token")
_BEIT3 = (
    (r"^beit3\.", ""),
    (r"\.A\.", "."),
    (r"^vision_embed\.cls_token$", "cls_token"),
    (r"^vision_embed\.", "patch_embed."),
    (r"^encoder\.embed_positions\.weight$", "pos_embed"),
    (r"^encoder\.layer_norm\.", "norm."),
    (r"^encoder\.layers\.", "blocks."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.final_layer_norm\.", ".norm2."),
    (r"\.self_attn\.inner_attn_ln\.", ".attn.norm."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.self_attn\.", ".attn."),
    (r"\.ffn\.ffn_layernorm\.", ".mlp.norm."),
    (r"\.ffn\.", ".mlp."),
)

CONVERSIONS: dict[str, Callable[[State], State]] = {
    "musk": _musk,
    "conch": _conch,
    "keep": _keep,
    "hf-dinov2": _hugging_face,
    "hf-vit": _hugging_face,
    "swin": _swin,
    "efficientnet-lite": from_published,
    "dinov2": _dinov2,
    "timm": _timm,
}
"""Layout -> conversion; also the order in which they are tried."""

_MARKS = {
    "musk": r"^beit3\.",
    "conch": r"^(visual\.)?attn_pool_contrast\.",
    "keep": r"^visual_head\.",
    "hf-dinov2": r"^((dinov2|dinov2_with_registers)\.)?(encoder\.)?layers?\.\d+\.layer_scale1\.lambda1$",
    "hf-vit": r"^(vit\.)?embeddings\.cls_token$",
    "swin": r"^layers\.0\.downsample\.",
    "efficientnet-lite": r"^_conv_stem\.",
    "dinov2": r"^(mask_token|register_tokens|blocks\.\d+\.\d+\..*|blocks\.\d+\.mlp\.w12\..*)$",
}
"""A name that only this layout has."""
