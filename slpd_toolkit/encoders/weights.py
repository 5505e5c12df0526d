"""Is this the right weights file? Digests, layouts, shapes; and, if not, whose file it is."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import torch

from slpd_toolkit.core.errors import UsageError, WeightsError
from slpd_toolkit.core.registry import Registry
from slpd_toolkit.core.text import listed
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
    """What a digest says about a file."""

    PUBLISHED = "published"
    UNKNOWN = "unknown"
    CHANGED = "changed"
    """The digest of the published file is known, and this one is different."""


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
    expected = expected_digests(preset, path)
    return Digest.CHANGED if expected and all(expected.values()) else Digest.UNKNOWN


def expected_digests(preset: Preset, path: Path) -> dict[str, str]:
    """Return the published files that a file can be, with their digests: that of its name, or those of its suffix."""
    published = preset.weights.sha256
    if path.name in published:
        return {path.name: published[path.name]}
    return {name: digest for name, digest in published.items() if name.endswith(path.suffix)}


def encoders_of(path: Path, digest: str) -> tuple[bool, list[str]]:
    """Find the encoders whose weights a file contains.

    Returns:
        Whether it is a published file whose digest is known, and the names: of the encoders of that file, or of those
        whose networks have exactly its tensors.

    Raises:
        WeightsError: The file cannot be read as weights.
    """
    published = [preset.name for preset in presets().values() if digest in preset.digests]
    if published:
        return True, published
    return False, fitting_presets(unwrap(read_checkpoint(path), path))


def load_weights(network: nn.Module, preset: Preset, path: Path) -> None:
    """Load a published file into the network of a preset, all of it or nothing.

    Raises:
        WeightsError: The file is unreadable, unsafe, in another layout, has other names or shapes (the hint names the
            presets that fit), or values that are not finite.
    """
    state = unwrap(read_checkpoint(path), path)
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise WeightsError(
            f"{path}: not all values are finite ({listed(broken)}).",
            hint="The file is damaged: download it again.",
        )
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
