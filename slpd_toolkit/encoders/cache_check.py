"""Find token caches made with a normalization other than the publisher's, as earlier versions did.

A timm architecture without pretrained weights has timm's default mean and standard deviation. These are .5 for
`vit_large_patch16_224`, but UNI and others that share this architecture need ImageNet's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit.encoders.preset import presets
from slpd_toolkit.encoders.timm_names import parse_query

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slpd_toolkit.encoders.preset import Preset

_SHAPELESS = frozenset({"img_size", "num_classes", "dynamic_img_size", "global_pool"})
"""Arguments of timm that do not change which weights fit."""
_TOLERANCE = 1e-3


def normalisation_warning(encoder: str, weights_sha256: str, mean: Sequence[float], std: Sequence[float]) -> str:
    """Compare the normalization of a cache with the preset of its encoder.

    Args:
        encoder: Name of the encoder in the cache.
        weights_sha256: Digest of its weights.
        mean: Mean that was subtracted; empty for imported features, for which it is not known.
        std: Standard deviation that was divided by.

    Returns:
        What is wrong and how to fix it; empty if nothing is known to be wrong.
    """
    if not mean:
        return ""
    certain, candidates = _candidates(encoder, weights_sha256)
    wrong = [preset for preset in candidates if not _fed_alike(preset, mean, std)]
    if not wrong or len(wrong) < len(candidates):  # the cache may be from a candidate with this normalization
        return ""
    names = ", ".join(dict.fromkeys(preset.name for preset in wrong))
    needed = "; ".join(
        dict.fromkeys(
            f"mean {_numbers(preset.transform.mean)}, std {_numbers(preset.transform.std)}" for preset in wrong
        )
    )
    whose = f"whose weights are those of {names}" if certain else f"with the architecture of {names}"
    return (
        f"The tokens are of the encoder {encoder}, {whose}, and were computed with mean {_numbers(mean)}, std "
        f"{_numbers(std)} instead of {needed}: they are not the features of that model. Embed the slides again: "
        f"slpd embed MANIFEST --out NEW_CACHE --encoder {wrong[0].name} --weights FILE."
    )


def _candidates(encoder: str, weights_sha256: str) -> tuple[bool, list[Preset]]:
    """Find the presets that a cache can be of: by name, by digest, by hub, or by architecture."""
    known = presets()
    if encoder in known:
        return True, [known[encoder]]
    by_digest = [preset for preset in known.values() if weights_sha256 in preset.digests]
    if by_digest:
        return True, by_digest
    family, _, model = encoder.partition(":")
    if family != "timm":
        return False, []
    name, _, query = model.partition("#")[0].partition("?")
    source, _, publisher = name.partition(":")
    if source.lower() in {"hf-hub", "hf_hub"}:
        return True, [preset for preset in known.values() if preset.terms.publisher.lower() == publisher.lower()]
    wanted = name.partition(".")[0], _significant(parse_query(query))
    return False, [
        preset
        for preset in known.values()
        if preset.architecture.network == "timm-model"
        and (preset.architecture.model, _significant(preset.architecture.arguments)) == wanted
    ]


def _significant(arguments: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in arguments.items() if name not in _SHAPELESS}


def _fed_alike(preset: Preset, mean: Sequence[float], std: Sequence[float]) -> bool:
    if preset.transform.from_config:
        return True
    pairs = zip((*mean, *std), (*preset.transform.mean, *preset.transform.std), strict=True)
    return all(abs(found - wanted) < _TOLERANCE for found, wanted in pairs)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)
