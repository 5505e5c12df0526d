"""From timm's names to those of published files, with what such files carry beside the encoder."""

from __future__ import annotations

import re

import torch
from torch import Tensor

State = dict[str, Tensor]


def to_hugging_face(state: State) -> State:
    """ViTModel or Dinov2Model of the transformers library, as saved on the hub."""
    dinov2 = "blocks.0.ls1.gamma" in state
    width = state["cls_token"].shape[-1]
    new = {"pooler.dense.weight": torch.ones(width, width)} if not dinov2 else {}
    new |= {"embeddings.mask_token": torch.ones(1, width)} if dinov2 else {}
    state = _with_cls_position(state)
    for name, tensor in state.items():
        if ".attn.qkv." in name:
            block, kind = re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(\w+)", name).groups()  # type: ignore[union-attr]
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                new[f"encoder.layer.{block}.attention.attention.{part}.{kind}"] = piece.clone()
            continue
        renamed = {
            "cls_token": "embeddings.cls_token",
            "pos_embed": "embeddings.position_embeddings",
            "reg_token": "embeddings.register_tokens",
        }.get(name, name)
        renamed = re.sub(r"^patch_embed\.proj", "embeddings.patch_embeddings.projection", renamed)
        renamed = re.sub(r"^norm\.", "layernorm.", renamed).replace("blocks.", "encoder.layer.")
        renamed = renamed.replace(".attn.proj.", ".attention.output.dense.")
        if dinov2:
            renamed = re.sub(r"\.ls([12])\.gamma", r".layer_scale\1.lambda1", renamed)
            gated = state["blocks.0.mlp.fc1.weight"].shape[0] != state["blocks.0.mlp.fc2.weight"].shape[1]
            if gated:
                renamed = renamed.replace(".mlp.fc1.", ".mlp.weights_in.").replace(".mlp.fc2.", ".mlp.weights_out.")
        else:
            renamed = renamed.replace(".norm1.", ".layernorm_before.").replace(".norm2.", ".layernorm_after.")
            renamed = renamed.replace(".mlp.fc1.", ".intermediate.dense.").replace(".mlp.fc2.", ".output.dense.")
        new[renamed] = tensor
    return new


def to_dinov2(state: State) -> State:
    """Original code of DINOv2: chunked blocks, mask token, a teacher's prefix, heads of pretraining."""
    gated = state["blocks.0.mlp.fc1.weight"].shape[0] != state["blocks.0.mlp.fc2.weight"].shape[1]
    new = {"mask_token": torch.ones(1, state["cls_token"].shape[-1])}
    for name, tensor in _with_cls_position(state).items():
        renamed = re.sub(r"^blocks\.(\d+)\.", r"blocks.0.\1.", name).replace("reg_token", "register_tokens")
        if gated:
            renamed = renamed.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3.")
        new[renamed] = tensor
    teacher = {f"module.backbone.{name}": tensor for name, tensor in new.items()}
    return teacher | {"module.dino_head.mlp.0.weight": torch.ones(3, 3)}


def to_swin(state: State) -> State:
    """Original code of Swin: merging at the end of a stage, buffers in the file."""
    new = {}
    for name, tensor in state.items():
        match = re.match(r"layers\.(\d)\.downsample\.(.*)", name)
        new[f"layers.{int(match[1]) - 1}.downsample.{match[2]}" if match else name] = tensor
    return new | {
        "layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49),
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.int64),
    }


def to_beit3(state: State) -> State:
    """MUSK: image branch A beside text branch B, heads, two unused positions in front."""
    new: State = {}
    for name, tensor in state.items():
        if ".attn.qkv." in name:
            block, kind = re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(\w+)", name).groups()  # type: ignore[union-attr]
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                new[f"beit3.encoder.layers.{block}.self_attn.{part}_proj.A.{kind}"] = piece.clone()
            continue
        if name == "pos_embed":
            new["beit3.encoder.embed_positions.A.weight"] = torch.cat([torch.ones(2, tensor.shape[-1]), tensor[0]])
            continue
        renamed = {"cls_token": "vision_embed.cls_token"}.get(name, name)
        for old, published in {
            r"^patch_embed\.": "vision_embed.",
            r"^norm\.": "encoder.layer_norm.A.",
            r"^blocks\.": "encoder.layers.",
            r"\.norm1\.": ".self_attn_layer_norm.A.",
            r"\.norm2\.": ".final_layer_norm.A.",
            r"\.attn\.norm\.": ".self_attn.inner_attn_ln.A.",
            r"\.attn\.proj\.": ".self_attn.out_proj.A.",
            r"\.mlp\.norm\.": ".ffn.A.ffn_layernorm.",
            r"\.mlp\.": ".ffn.A.",
        }.items():
            renamed = re.sub(old, published, renamed)
        new[f"beit3.{renamed}"] = tensor
    text = {name.replace(".A.", ".B."): torch.ones_like(tensor) for name, tensor in new.items() if ".A." in name}
    width = state["cls_token"].shape[-1]
    rest = {
        "beit3.text_embed.weight": torch.ones(10, width),
        "beit3.vision_embed.mask_token": torch.ones(1, 1, width),
        "vision_head.weight": torch.ones(width, width),
        "logit_scale": torch.ones(()),
    }
    return new | text | rest


def _with_cls_position(state: State) -> State:
    """With registers, timm has no position for the CLS token: published files do, and their token is without it."""
    if "reg_token" not in state:
        return dict(state)
    position = torch.full_like(state["cls_token"], 0.25)
    return state | {
        "cls_token": state["cls_token"] - position,
        "pos_embed": torch.cat([position, state["pos_embed"]], dim=1),
    }
