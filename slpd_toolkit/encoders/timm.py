"""The timm library: importing it, and building its models with arguments that cannot be text.

An encoder `timm:<model>` is one that no preset describes: see `slpd_toolkit.encoders.free_timm`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

from slpd_toolkit.core.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

_INSTALL = "pip install 'slpd-toolkit[timm]'"


def create_model(model: str, **arguments: Any) -> nn.Module:
    """Build a timm model; `mlp_layer` and `act_layer` may be names of classes (`SwiGLUPacked`, `SiLU`).

    Raises:
        UsageError: timm is not installed.
        ValueError: A name of a class is not known; timm raises others for what it cannot build.
    """
    timm = import_timm()
    network: nn.Module = timm.create_model(model, **_classes(arguments))
    return network


def features_of(network: nn.Module) -> int:
    """Return the width of a timm model's features."""
    width = network.num_features
    assert isinstance(width, int)
    return width


def _classes(arguments: dict[str, Any]) -> dict[str, Any]:
    found = dict(arguments)
    for key, module in (("mlp_layer", import_module("timm.layers")), ("act_layer", torch.nn)):
        name = found.get(key)
        if isinstance(name, str) and hasattr(module, name):
            found[key] = getattr(module, name)
        elif key == "mlp_layer" and isinstance(name, str):
            raise ValueError(f"mlp_layer: timm.layers has no class {name!r}")
    return found


def import_timm() -> Any:
    """Import timm.

    Raises:
        UsageError: It is not installed.
    """
    try:
        return _import_beside_cpu_torch("timm")
    except ImportError as error:
        raise UsageError(f"This encoder needs the timm extra ({error}).", hint=f"Run: {_INSTALL}") from error


def _import_beside_cpu_torch(module: str) -> Any:
    """Import timm although torchvision's compiled operators may be for another torch build.

    torchvision's wheels from the default index contain CUDA operators, which do not load with a CPU build of torch; its
    Python part then stops at the missing `torchvision::nms`. timm uses none of those operators, so declaring their
    signatures is enough.
    """
    try:
        return import_module(module)
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] in {"torchvision", module}]:
        del sys.modules[name]
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return import_module(module)
