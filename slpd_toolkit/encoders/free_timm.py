"""`timm:<model>`: any model of the timm library, described by its own configuration or by the user, not guessed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import sha256
from slpd_toolkit.encoders.encoder import Encoder, digest_of_state, freeze
from slpd_toolkit.encoders.layouts import unwrap
from slpd_toolkit.encoders.networks.timm_model import POOLINGS, Pooled
from slpd_toolkit.encoders.own_config import transform_of
from slpd_toolkit.encoders.preset import NORMALISATIONS, presets
from slpd_toolkit.encoders.timm import create_model, import_timm
from slpd_toolkit.encoders.timm_names import parse_query
from slpd_toolkit.models.weights import load_strict, read_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from slpd_toolkit.encoders.preset import Channels, Transform

_HUB, _FOLDER = frozenset({"hf-hub", "hf_hub"}), "local-dir"


def make_timm(
    model: str, *, weights: Path | None, allow_download: bool, mean: str = "", std: str = "", pooling: str = ""
) -> Encoder:
    """Build a timm model without its classifier.

    Args:
        model: What `timm.create_model` takes, `local-dir:/path` and `hf-hub:owner/name` included; constructor arguments
            may follow as `?init_values=1e-5&mlp_layer=SwiGLUPacked`.
        weights: Local weights of the model; loaded strictly, classifier keys left out.
        allow_download: Whether pretrained weights may be fetched when `weights` is None.
        mean: Mean of RGB in 0-1: `0.485,0.456,0.406`, or the name of a known normalization. Needed where no
            configuration came with the weights.
        std: Standard deviation, likewise.
        pooling: `cls`, `mean`, `cls+mean` or `model`; needed likewise.

    Raises:
        UsageError: timm is not installed or does not know the model, the network would be needed, or mean, standard
            deviation or pooling are missing.
        WeightsError: The weights are not those of the model.
    """
    import_timm()
    model_name, _, query = model.partition("?")
    source = model_name.partition(":")[0].lower()
    if not allow_download and (source in _HUB or (weights is None and source != _FOLDER)):
        needed = "the hub" if source in _HUB else "weights"
        raise UsageError(
            f"--encoder timm:{model} needs {needed}, and nothing may be downloaded.",
            hint="Pass timm:<architecture> with --weights FILE, timm:local-dir:/folder (which contains config.json "
            "and the weights), or --allow-download.",
        )
    described = weights is None or source in _HUB or source == _FOLDER
    if not described:
        _require_description(model, weights, mean, std, pooling)
    _require_pooling(pooling)
    arguments = parse_query(query)
    network = _build(model, model_name, arguments, weights)
    digest = digest_of_state(network) if weights is None else sha256(weights)
    transform = _own_transform(network, arguments)
    if not described:
        transform = replace(transform, resize_px=transform.input_px, interpolation="bicubic")
    if mean:
        transform = replace(transform, mean=_channels("--mean", mean, 0))
    if std:
        transform = replace(transform, std=_channels("--std", std, 1))
    pooled = Pooled(network, pooling or "model")
    width = _width(pooled, model, transform.input_px)
    _say(model, transform, pooling or "the model's own", "its own configuration" if described else "as given")
    return Encoder(
        f"timm:{model}" + (f"#{pooling}" if pooling not in {"", "model"} else ""),
        freeze(pooled),
        width,
        transform.input_px,
        transform.mean,
        transform.std,
        digest,
        transform.resize_px,
        transform.interpolation,
    )


def _build(model: str, model_name: str, arguments: dict[str, Any], weights: Path | None) -> torch.nn.Module:
    try:
        if weights is None:
            # With its own classifier first: timm loads a model that was asked for without one leniently.
            network = create_model(model_name, pretrained=True, **arguments)
            network.reset_classifier(0)  # type: ignore[operator]
        else:
            network = create_model(model_name, **{"num_classes": 0, **_without_classes(arguments)})
    except (RuntimeError, ValueError, TypeError, OSError, AssertionError, KeyError) as error:
        raise UsageError(
            f"--encoder timm:{model}: timm cannot build it ({error}).", hint="`timm.list_models()` names all models."
        ) from error
    if weights is not None:
        load_strict(network, _without_classifier(unwrap(read_checkpoint(weights), weights), network), weights)
    return network


def _without_classes(arguments: dict[str, Any]) -> dict[str, Any]:
    if "num_classes" in arguments:
        raise ValueError("num_classes cannot be set: an encoder has no classifier")
    return arguments


def _require_description(model: str, weights: Path | None, mean: str, std: str, pooling: str) -> None:
    """Require normalization and pooling: a weights file does not state them, and timm's defaults are often wrong."""
    missing = [flag for flag, value in (("--mean", mean), ("--std", std), ("--pooling", pooling)) if not value]
    if missing:
        architecture = model.partition("?")[0]
        alike = [preset.name for preset in presets().values() if preset.architecture.model == architecture]
        raise UsageError(
            f"--encoder timm:{model} with --weights {weights} needs {', '.join(missing)}: the file does not state how "
            "its model was trained.",
            hint=(f"Is it one of {', '.join(alike)}? Then pass that name as --encoder. " if alike else "")
            + "Otherwise take the values from the model's page, for example --mean imagenet --std imagenet "
            "--pooling cls.",
        )


def _require_pooling(pooling: str) -> None:
    if pooling and pooling not in POOLINGS:
        raise UsageError(f"--pooling: got {pooling}, allowed: {', '.join(POOLINGS)}.")


def _channels(flag: str, text: str, part: int) -> Channels:
    """Read three numbers, or the name of a known normalization."""
    if text in NORMALISATIONS:
        return NORMALISATIONS[text][part]
    try:
        red, green, blue = map(float, text.split(","))
    except ValueError as error:
        raise UsageError(
            f"{flag}: got {text}, allowed: three numbers such as 0.5,0.5,0.5, or one of {', '.join(NORMALISATIONS)}."
        ) from error
    valid = all(0 <= value <= 1 for value in (red, green, blue)) and (part == 0 or min(red, green, blue) > 0)
    if not valid:
        raise UsageError(f"{flag}: got {text}, allowed: numbers from 0 to 1, of RGB in 0-1.")
    return red, green, blue


def _own_transform(network: torch.nn.Module, arguments: dict[str, Any]) -> Transform:
    asked = {name: value for name, value in arguments.items() if name == "img_size"}
    return transform_of(import_timm().data.resolve_data_config(asked, model=network))


def _width(network: Pooled, model: str, side: int) -> int:
    try:
        with torch.inference_mode():
            return int(network.eval()(torch.zeros(1, 3, side, side)).shape[-1])
    except (ValueError, AttributeError) as error:
        raise UsageError(f"--pooling: timm:{model} cannot be pooled this way ({error}).") from error


def _say(model: str, transform: Transform, pooling: str, whose: str) -> None:
    console.note(
        f"timm:{model} ({whose}): mean {_numbers(transform.mean)}, std {_numbers(transform.std)}, patches resized to "
        f"{transform.resize_px} px ({transform.interpolation}), central {transform.input_px} px, pooling: {pooling}."
    )


def _numbers(values: Channels) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _without_classifier(tensors: dict[str, torch.Tensor], network: torch.nn.Module) -> dict[str, torch.Tensor]:
    classifier = getattr(network, "pretrained_cfg", {}).get("classifier") or "head"
    heads = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
    wanted = network.state_dict()
    return {name: value for name, value in tensors.items() if name in wanted or not name.startswith(heads)}
