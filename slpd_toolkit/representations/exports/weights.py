"""Weights of the region ViT, as other tools load them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from slpd_toolkit.config.region_vit import RegionViTConfig
from slpd_toolkit.core import console
from slpd_toolkit.models.region_vit import RegionViT
from slpd_toolkit.models.weights import write_checkpoint, write_safetensors
from slpd_toolkit.representations.exports.source import weights_of

if TYPE_CHECKING:
    from pathlib import Path

SUFFIXES = {"hipt": ".pth", "safetensors": ".safetensors"}
"""Formats, and the suffix of their files."""

_APPENDED = {"cls+mean": "the mean output of all tokens", "cls+mean+input": "mean outputs and inputs of all tokens"}


def write_weights(source: Path, to: str, out: Path) -> None:
    """Write the weights of a region ViT.

    Args:
        source: Run folder or weights file.
        to: One of `SUFFIXES`.
        out: File to write.

    Raises:
        WeightsError: The source does not hold a region ViT.
    """
    source = weights_of(source)
    model = RegionViT.from_file(source)
    if to == "hipt":
        model = without_whitening(model)
        # HIPT's loader takes the key "teacher" and strips "module." and "backbone.".
        teacher = {f"backbone.{name}": tensor for name, tensor in model.state_dict().items()}
        write_checkpoint({"teacher": teacher}, out)
        if model.shape() != RegionViT(RegionViTConfig()).shape():
            known = {name: value for name, value in model.shape().items() if name != "pooling"}
            arguments = ", ".join(f"{name}={value}" for name, value in known.items())
            console.warn(f"{source} does not have HIPT's architecture: its loader needs the arguments {arguments}.")
        if model.config.centering != "none":
            console.warn(f"{source} expects tokens relative to their slide's mean token, which HIPT does not subtract.")
        if model.config.pooling != "cls":
            console.warn(
                f"{source} appends {_APPENDED[model.config.pooling]} to the output of CLS; HIPT returns only "
                f"the first {model.config.embed_dim} features, those of CLS."
            )
    else:
        write_safetensors(model.state_dict(), model.shape(), out)
    console.note(f"Wrote {out}.")


@torch.no_grad()
def without_whitening(network: RegionViT) -> RegionViT:
    """Return a network that computes the same without whitening: its first layer contains the map of the tokens."""
    if network.config.whitening == "none":
        return network
    plain = RegionViT(replace(network.config, whitening="none"), input_dim=network.input_dim, grid=network.grid)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    mean, weight = state.pop("phi.token_mean"), state["phi.0.weight"] @ state.pop("phi.token_map").mT
    plain.load_state_dict({**state, "phi.0.weight": weight, "phi.0.bias": state["phi.0.bias"] - weight @ mean})
    return plain.eval()
