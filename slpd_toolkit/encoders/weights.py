"""Is this the right weights file? Digests, layouts, shapes; and, if not, whose file it is."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import torch

from slpd_toolkit.core.errors import UsageError, WeightsError
from slpd_toolkit.core.registry import Registry
from slpd_toolkit.encoders.layouts import convert, recognise, unwrap
from slpd_toolkit.encoders.preset import presets
from slpd_toolkit.models.weights import load_strict, read_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from slpd_toolkit.encoders.layouts import State
    from slpd_toolkit.encoders.preset import Preset

NETWORKS = Registry("slpd_toolkit.encoders.networks", "network")


class Digest(Enum):
    """What a digest says of a file."""

    PUBLISHED = "published"
    UNKNOWN = "unknown"
    CHANGED = "changed"
    """It has the name of a published file whose digest is known, and another digest."""


def build_network(preset: Preset) -> nn.Module:
    """Build the network of a preset with initial weights, on the current default device.

    Raises:
        UsageError: The timm library is needed and not installed, or too old for this model.
    """
    architecture = preset.architecture
    try:
        network: nn.Module = NETWORKS.load(architecture.network).build(
            architecture.model, architecture.arguments, preset.pooling
        )
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"--encoder {preset.name}: the installed timm cannot build it ({error}).",
            hint="Run: pip install --upgrade 'timm>=1.0.31'",
        ) from error
    return network


def check_digest(preset: Preset, path: Path, digest: str) -> Digest:
    """Compare the digest of a file with those of all published files.

    Raises:
        WeightsError: It is the published file of another encoder.
    """
    if digest in preset.digests:
        return Digest.PUBLISHED
    others = [other.name for other in presets().values() if digest in other.digests]
    if others:
        raise WeightsError(
            f"{path} is the published file of {' and '.join(others)}, not of {preset.name}.",
            hint=f"Use --encoder {others[0]}, or the file of {preset.name}: {where_to_get(preset)}.",
        )
    return Digest.CHANGED if preset.weights.sha256.get(path.name) else Digest.UNKNOWN


def load_weights(network: nn.Module, preset: Preset, path: Path) -> None:
    """Load a published file into the network of a preset, all of it or nothing.

    Raises:
        WeightsError: The file is unreadable, unsafe, in another layout, or of other names or shapes; the hint names the
            presets that fit.
    """
    state = unwrap(read_checkpoint(path), path)
    try:
        load_strict(_inner(network), convert(state, preset.weights.layouts, path), path)
    except WeightsError as error:
        fitting = [name for name in fitting_presets(state) if name != preset.name]
        if not fitting:
            hint = f"The file of {preset.name} is: {where_to_get(preset)}. Nothing was loaded."
        else:
            hint = f"Its names and shapes are those of: {', '.join(fitting)}. Nothing was loaded."
        raise WeightsError(error.message, hint=hint) from error


def fitting_presets(state: State) -> list[str]:
    """Name the presets whose networks have exactly these tensors.

    Networks are built without memory, and only those whose width can be right.
    """
    layout = recognise(state)
    candidates = [preset for preset in presets().values() if layout in preset.weights.layouts]
    if not candidates:
        return []
    converted = convert(state, [layout], "")
    shapes = {name: tensor.shape for name, tensor in converted.items()}
    width = next((shape[-1] for name, shape in shapes.items() if name.endswith("cls_token")), 0)
    built: dict[str, bool] = {}
    for preset in candidates:
        key = repr(preset.architecture)
        if key not in built:
            built[key] = _token_width(preset) in {0, width} and _shapes(preset) == shapes
    return [preset.name for preset in candidates if built[repr(preset.architecture)]]


def where_to_get(preset: Preset) -> str:
    """Name the file to download, and where."""
    files = " or ".join(preset.weights.sha256) or "its weights"
    return f"{files} of {preset.terms.publisher}"


def _token_width(preset: Preset) -> int:
    """Return the width inside the network, or 0 where the width of the token does not tell it."""
    parts = {"cls": 1, "cls+mean": 2}.get(preset.pooling, 0) * {"timm-model": 1, "patch-vit": 1, "two-scales": 2}.get(
        preset.architecture.network, 0
    )
    return preset.width // parts if parts else 0


def _shapes(preset: Preset) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in _inner(build_network(preset)).state_dict().items()}


def _inner(network: nn.Module) -> nn.Module:
    """Return the module whose names are those of the file: what is inside a pooling."""
    inner = getattr(network, "network", network)
    assert isinstance(inner, torch.nn.Module)
    return inner
