"""The files of a bundle: JSON and safetensors, with a list of digests. Nothing in them is executed.

The list of digests is removed first and written last, so that a bundle without it is incomplete, and one with it is
complete.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from slpd_toolkit.core.files import claim_folder, sha256, write_text
from slpd_toolkit.core.version import __version__
from slpd_toolkit.models.weights import write_safetensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from slpd_toolkit.mil.bundle.bundle import Bundle, BundledHead
    from slpd_toolkit.mil.bundle.origin import Origin
    from slpd_toolkit.mil.descriptors.descriptor import ChosenDescriptor

SCHEMA = "slpd-bundle"
VERSIONS = (1, 2, 3)
"""2: with a descriptor of slides. 3: with a mean token appended to it."""
ABOUT, HEADS, TRAINING, REGION_VIT, DIGESTS = (
    "bundle.json",
    "heads.safetensors",
    "training.safetensors",
    "region_vit.safetensors",
    "SHA256SUMS",
)
MODEL_CARD = "MODEL_CARD.md"
FILES = (ABOUT, HEADS, TRAINING, REGION_VIT, DIGESTS, MODEL_CARD)
KNOWN_MEANS, RISKS, DESCRIPTOR = "known_means", "held_out_risks", "descriptor/"
"""Names of tensors."""


def write_bundle(folder: Path, bundle: Bundle, card: str) -> None:
    """Write a bundle; one that is there is replaced.

    Args:
        folder: The folder, which is created.
        bundle: The bundle.
        card: Text of MODEL_CARD.md, which may be edited later: it is not in the list of digests.

    Raises:
        UsageError: The folder cannot be written to.
    """
    claim_folder(folder, FILES)
    remove_bundle(folder)
    tensors = {
        f"{head.name}/{name}": values for head in bundle.heads for name, values in sorted(head.state.tensors.items())
    }
    for head in bundle.heads:
        if len(head.held_out_risks):
            tensors[f"{head.name}/{RISKS}"] = head.held_out_risks
        tensors |= {f"{head.name}/{DESCRIPTOR}{name}": values for name, values in head.state.descriptor.items()}
        if head.state.known_means is not None:
            tensors[f"{head.name}/{KNOWN_MEANS}"] = head.state.known_means
    write_safetensors(_tensors(tensors), {}, folder / HEADS)
    training = bundle.training.arrays()
    if bundle.known_means is not None:
        training[KNOWN_MEANS] = bundle.known_means
    write_safetensors(_tensors(training), {}, folder / TRAINING)
    if bundle.origin.network is not None:
        network = bundle.origin.network
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        write_safetensors(state, network.shape(), folder / REGION_VIT)
    write_text(folder / ABOUT, json.dumps(_document(bundle), indent=2, allow_nan=False) + "\n")
    write_text(folder / MODEL_CARD, card)
    lines = [f"{sha256(folder / name)}  {name}\n" for name in files_of(bundle.origin.kind)]
    write_text(folder / DIGESTS, "".join(lines))


def remove_bundle(folder: Path) -> None:
    """Remove the files of a bundle; others stay."""
    for name in (DIGESTS, *FILES):
        (folder / name).unlink(missing_ok=True)


def is_bundle(folder: Path) -> bool:
    """Return whether a folder holds a bundle, complete or not."""
    return (folder / ABOUT).is_file() or (folder / DIGESTS).is_file()


def files_of(kind: str) -> list[str]:
    """Return the files that are in the list of digests, for a kind of origin."""
    return [ABOUT, HEADS, TRAINING, *([REGION_VIT] if kind == "region-vit" else [])]


def _document(bundle: Bundle) -> dict[str, Any]:
    origin, training = bundle.origin, bundle.training
    return {
        "schema": SCHEMA,
        "schema_version": _version_of(origin),
        "toolkit_version": __version__,
        "model": bundle.model,
        "aggregator": bundle.aggregator,
        "target": bundle.target,
        "task": dict(bundle.task),
        "representation": {
            "kind": origin.kind,
            "source": origin.source,
            "digest": origin.digest,
            "width": origin.width,
            "view": origin.view,
            "precision": origin.precision,
            "tokens": dict(origin.tokens),
            "recipe": dict(origin.recipe),
        }
        | ({} if origin.descriptor is None else {"descriptor": _descriptor_document(origin.descriptor)}),
        "heads": [_head_document(head) for head in bundle.heads],
        "decision": {
            "kind": bundle.decision.kind,
            "classes": list(bundle.decision.classes),
            "threshold": bundle.decision.threshold,
            "thresholds": list(bundle.decision.thresholds),
        },
        "distance": {
            "limit": _number(training.limit),
            "false_alarm_rate": _number(training.false_alarm_rate),
            "held_out_slides": len(training.held_out),
        },
        "facts": dict(bundle.facts),
    }


def _version_of(origin: Origin) -> int:
    """Return the first version that can describe the representation."""
    if origin.descriptor is None:
        return 1
    return 3 if origin.descriptor.mean_token else 2


def _descriptor_document(descriptor: ChosenDescriptor) -> dict[str, object]:
    found: dict[str, object] = {"name": descriptor.name, "clusters": descriptor.clusters}
    return found | ({"mean_token": True} if descriptor.mean_token else {})


def _head_document(head: BundledHead) -> dict[str, Any]:
    grid = head.readout.grid
    numbers = {"offset": head.readout.offset, "scale": head.readout.scale}
    return {
        "name": head.name,
        "setting": head.setting,
        "temperature": head.temperature,
        "options": dict(head.state.options),
        "readout": {"kind": head.readout.kind}
        | (numbers if head.readout.kind == "identity" else {})
        | ({} if grid is None else {"knots": grid.knots.tolist(), "times": grid.times.tolist()}),
    }


def _tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(values, order="C")) for name, values in arrays.items()}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def stale_bundles(folder: Path, names: Iterable[str]) -> list[Path]:
    """Return the bundles in a `model/` folder that are not among `names`."""
    if not folder.is_dir():
        return []
    keep = set(names)
    inside = [path for path in folder.iterdir() if path.is_dir() and is_bundle(path) and path.name not in keep]
    return [*([folder] if is_bundle(folder) and "" not in keep else []), *inside]
