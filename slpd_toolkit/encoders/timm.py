"""Encoders from the timm library: UNI, Virchow, H-optimus, GigaPath and every other ViT or CNN that timm can build."""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import torch

from slpd_toolkit.core.errors import UsageError, WeightsError
from slpd_toolkit.core.files import sha256
from slpd_toolkit.encoders.encoder import Encoder, digest_of_state, freeze
from slpd_toolkit.models.weights import load_strict, read_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

_INSTALL = "pip install 'slpd-toolkit[timm]'"


def make_timm(model: str, *, weights: Path | None, allow_download: bool) -> Encoder:
    """Build a timm model without its classifier.

    Args:
        model: What `timm.create_model` takes, `local-dir:/path` and `hf-hub:owner/name` included; constructor arguments
            may follow as `?init_values=1e-5&dynamic_img_size=True`.
        weights: Local weights of the model; loaded strictly, classifier keys left out.
        allow_download: Whether pretrained weights may be fetched when `weights` is None.

    Raises:
        UsageError: timm is not installed, does not know the model, or the network would be needed.
        WeightsError: The weights are not those of the model.
    """
    timm = _import_timm()
    model_name, _, query = model.partition("?")
    source = model_name.partition(":")[0].lower()
    from_hub = source in {"hf-hub", "hf_hub"}  # its configuration lies there, even where the weights are at hand
    if not allow_download and (from_hub or (weights is None and source != "local-dir")):
        raise UsageError(
            f"--encoder timm:{model} needs {'the hub' if from_hub else 'weights'}, and nothing may be downloaded.",
            hint="Give timm:<architecture> with --weights FILE, or timm:local-dir:/folder (config.json and weights in "
            "it), or --allow-download.",
        )
    try:
        if weights is None:
            # With its own classifier first: timm loads a model that was asked for without one leniently.
            network = timm.create_model(model_name, pretrained=True, **_arguments(query))
            network.reset_classifier(0)
        else:
            network = timm.create_model(model_name, num_classes=0, **_arguments(query))
    except (RuntimeError, ValueError, TypeError, OSError, AssertionError, KeyError) as error:
        raise UsageError(
            f"--encoder timm:{model}: timm cannot build it ({error}).", hint="`timm.list_models()` names all models."
        ) from error
    if weights is not None:
        load_strict(network, _without_classifier(read_checkpoint(weights), network, weights), weights)
    wrapped = _ClsToken(network)
    asked = {name: value for name, value in _arguments(query).items() if name == "img_size"}
    data = timm.data.resolve_data_config(asked, model=network)
    side = int(data["input_size"][-1])
    with torch.inference_mode():
        width = int(wrapped.eval()(torch.zeros(1, 3, side, side)).shape[-1])
    digest = sha256(weights) if weights is not None else digest_of_state(network)
    return Encoder(f"timm:{model}", freeze(wrapped), width, side, tuple(data["mean"]), tuple(data["std"]), digest)


class _ClsToken(torch.nn.Module):
    """Take the CLS token where a model returns a sequence (`global_pool=''`)."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(images)
        return features[:, 0] if features.ndim == 3 else features


def _arguments(query: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        try:
            arguments[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[key] = value
    return arguments


def _without_classifier(checkpoint: dict[str, Any], network: torch.nn.Module, origin: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model", "teacher"):
        if isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
            break
    tensors = {
        name.removeprefix("module."): value for name, value in checkpoint.items() if isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise WeightsError(f"{origin}: holds no tensors.", hint="Expected a state dict.")
    classifier = getattr(network, "pretrained_cfg", {}).get("classifier") or "head"
    heads = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
    wanted = network.state_dict()
    return {name: value for name, value in tensors.items() if name in wanted or not name.startswith(heads)}


def _import_timm() -> Any:
    try:
        return _import_beside_cpu_torch("timm")
    except ImportError as error:
        raise UsageError(f"--encoder timm: needs the timm extra ({error}).", hint=f"Run: {_INSTALL}") from error


def _import_beside_cpu_torch(module: str) -> Any:
    """Import timm although torchvision's compiled operators may be for another torch build.

    torchvision's wheels from the default index hold CUDA operators, which do not load beside a CPU torch; its Python
    part then stops at the missing `torchvision::nms`. timm uses none of those operators, so declaring their signatures
    is enough.
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
