"""What is known about each patch encoder, read from the tables in `presets/`. A new table is a new encoder.

Reading them imports no torch, so that `slpd encoders` and errors are quick.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

from slpd_toolkit.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGE = "slpd_toolkit.encoders.presets"
_FAMILY = "family"

Channels = tuple[float, float, float]
Interpolation = Literal["bilinear", "bicubic"]
PresetPrecision = Literal["any", "bf16", "fp16", "fp32"]
WeightsKind = Literal["file", "package", "seed", "none"]

FROM_CONFIG = "config.json"
"""Normalization of a preset whose mean and standard deviation only the model's own `config.json` states."""

NORMALISATIONS: Mapping[str, tuple[Channels, Channels]] = MappingProxyType(
    {
        "none": ((0.0,) * 3, (1.0,) * 3),
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "half": ((0.5,) * 3, (0.5,) * 3),
        "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        "bioptimus": ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)),
        "hibou": ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816)),
        "lunit": ((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464)),
        "efficientnet-lite": ((127 / 255,) * 3, (128 / 255,) * 3),
    }
)
"""Mean and standard deviation of RGB in 0-1, by name. `--mean` and `--std` take these names too."""


@dataclass(frozen=True)
class Architecture:
    """How the network is built and how large it is."""

    network: str
    """Module of `slpd_toolkit.encoders.networks` that builds it."""
    model: str
    """Architecture of the timm library, or empty."""
    arguments: Mapping[str, Any]
    """Arguments of the constructor; classes (`SwiGLUPacked`, `SiLU`) by name."""
    parameters_m: float
    """Number of parameters, in millions."""


@dataclass(frozen=True)
class Transform:
    """How a patch becomes the network's input: resize, central crop, normalize."""

    input_px: int
    """Side that the network sees; 0: that of the patch."""
    resize_px: int
    """Side that the patch is resized to before the crop; 0: `input_px`."""
    interpolation: Interpolation
    mean: Channels
    std: Channels
    from_config: bool = False
    """Whether all of this is read from the `config.json` next to the weights."""


@dataclass(frozen=True)
class Scale:
    """A patch size and resolution that an encoder was made for."""

    patch_px: int
    mpp: float

    def __str__(self) -> str:
        return f"{self.patch_px}@{self.mpp:g}"


@dataclass(frozen=True)
class Weights:
    """Where the weights come from and how they are recognized."""

    kind: WeightsKind
    layouts: tuple[str, ...] = ()
    """Layouts of `slpd_toolkit.encoders.layouts` in which the weights are published."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """Published files, by name; an empty digest is not known."""
    package: str = ""
    """Python package that holds the file, for the kind `package`."""
    file: str = ""
    """Path of the file inside that package."""


@dataclass(frozen=True)
class Preset:
    """Everything that determines the features of one encoder."""

    name: str
    about: str
    architecture: Architecture
    transform: Transform
    pooling: str
    width: int
    """Width of a token."""
    scales: tuple[Scale, ...]
    """What the encoder was made for; the first is the default."""
    patch_px_multiple: int
    """Accept every multiple of this as patch size; 0: only the sizes of `scales`."""
    precision: PresetPrecision
    """Arithmetic in which its publishers or other tools run it; `any` where it makes no difference."""
    weights: Weights
    terms: Terms
    sources: Mapping[str, str]
    """Source of each value: the key names the value, `all` covers those not named."""

    @property
    def digests(self) -> frozenset[str]:
        """The known digests of its files."""
        return frozenset(digest for digest in self.weights.sha256.values() if digest)


@dataclass(frozen=True)
class Terms:
    """Terms under which the weights are published, and the address."""

    licence: str
    gated: bool
    publisher: str
    """`owner/model` on the Hugging Face hub, or another address."""


def presets() -> Mapping[str, Preset]:
    """Return all presets by name, in the order of their files."""
    folders = tuple(map(str, import_module(PACKAGE).__path__))
    return _read(folders)


def find_preset(name: str) -> Preset | None:
    """Return the preset of that name, or None."""
    return presets().get(name)


def require_preset(name: str, setting: str = "--encoder") -> Preset:
    """Return the preset of that name.

    Args:
        name: Name of the encoder.
        setting: Where the name was given, for the message.

    Raises:
        UsageError: There is none; the message lists all names.
    """
    known = presets()
    if name not in known:
        near = get_close_matches(name.lower(), known, n=1)
        raise UsageError(
            f"{setting}: got {name!r}, allowed: {', '.join(known)}, timm:<model>.",
            hint=(f"Did you mean {near[0]}? " if near else "") + "`slpd encoders` describes each of them.",
        )
    return known[name]


@cache
def _read(folders: tuple[str, ...]) -> Mapping[str, Preset]:
    paths = [path for folder in folders for path in sorted(Path(folder).glob("*.toml"))]
    found: dict[str, Preset] = {}
    for path in sorted(paths, key=lambda path: path.name != "offline.toml"):
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        family = tables.pop(_FAMILY, {})
        for name, table in tables.items():
            assert name not in found, f"{path}: {name} is defined twice"
            found[name] = _preset(name, {**family, **table}, family.get("sources", {}))
    return MappingProxyType(found)


def _preset(name: str, table: dict[str, Any], family_sources: dict[str, str]) -> Preset:
    """Return the preset that a table describes; an unknown or missing key is an error of this package."""
    weights = dict(table.pop("weights"))
    preset = Preset(
        name=name,
        about=table.pop("about"),
        architecture=Architecture(
            table.pop("network", "timm-model"),
            table.pop("model", ""),
            table.pop("arguments", {}),
            table.pop("parameters_m"),
        ),
        transform=_transform(**table.pop("transform")),
        pooling=table.pop("pooling"),
        width=table.pop("width"),
        scales=tuple(Scale(patch_px, float(mpp)) for patch_px, mpp in table.pop("patches")),
        patch_px_multiple=table.pop("patch_px_multiple", 0),
        precision=table.pop("precision"),
        weights=Weights(**weights | {"layouts": tuple(weights.get("layouts", ()))}),
        terms=Terms(table.pop("licence"), table.pop("gated"), table.pop("publisher")),
        sources={**family_sources, **table.pop("sources", {})},
    )
    assert not table, f"{name}: unknown keys {sorted(table)}"
    assert preset.weights.kind in get_args(WeightsKind), f"{name}: kind of weights"
    return preset


def _transform(
    *,
    normalisation: str,
    input: int = 0,  # noqa: A002 - the key of the table
    resize: int = 0,
    interpolation: Interpolation = "bicubic",
) -> Transform:
    if normalisation == FROM_CONFIG:
        return Transform(input, resize, interpolation, *NORMALISATIONS["none"], from_config=True)
    return Transform(input, resize, interpolation, *NORMALISATIONS[normalisation])
