"""Embedding new slides as the training slides of a bundle were embedded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from slpd_toolkit.config.embed import EmbedConfig
from slpd_toolkit.config.recipe import typed
from slpd_toolkit.config.settings import assemble, settings_of
from slpd_toolkit.core import compute, console
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import make_folder, remove_leftovers_of
from slpd_toolkit.encoders.geometry import resolve_geometry
from slpd_toolkit.encoders.registry import make_encoder
from slpd_toolkit.ingest.embedding.encoder_of import encoder_of
from slpd_toolkit.ingest.embedding.identity import CacheIdentity
from slpd_toolkit.ingest.embedding.lane import Lane
from slpd_toolkit.ingest.embedding.pipeline import EmbeddingPipeline
from slpd_toolkit.store.schema import SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import torch

    from slpd_toolkit.core.failures import Failure, FailureLog
    from slpd_toolkit.core.manifest import SlideEntry
    from slpd_toolkit.core.precision import Precision
    from slpd_toolkit.encoders.encoder import Encoder
    from slpd_toolkit.encoders.geometry import Geometry
    from slpd_toolkit.mil.bundle.origin import Origin


def embedding_settings(origin: Origin, **running: object) -> EmbedConfig:
    """Return the settings of `slpd embed` that made the tokens of a bundle.

    Args:
        origin: Origin of the bundle's embeddings.
        running: Settings that do not change tokens: paths, workers, device, batch size, precision.

    Raises:
        UsageError: The tokens were imported from another tool, or the stored settings are invalid.
    """
    if not origin.recipe:
        raise UsageError(
            f"The tokens of this bundle ({origin.tokens.get('encoder')}) were imported from another tool, so slpd "
            "cannot embed new slides in the same way.",
            hint="Extract the features of the new slides with that tool, `slpd import` them, and pass --cache.",
        )
    known = settings_of(EmbedConfig)
    try:
        values = {name: typed(value, known[name].type) for name, value in origin.recipe.items()}
    except (KeyError, ValueError) as error:
        raise UsageError(f"The embedding settings of this bundle are invalid ({error}).") from error
    return assemble(EmbedConfig, {**values, **running, "qc": False})


def fixed_settings(origin: Origin, failures: Iterable[Failure]) -> list[str]:
    """Return the options of `slpd embed` that failures suggest to change, but that are fixed by a bundle.

    Args:
        origin: Origin of the bundle's embeddings.
        failures: Slides that failed, with what `slpd embed` suggests.
    """
    options = [f"--{name.replace('_', '-')}" for name in origin.recipe]
    said = [f"{each.error} {each.hint}" for each in failures]
    return [option for option in options if any(option in text for text in said)]


def embed_as_bundled(
    origin: Origin, settings: EmbedConfig, entries: Sequence[SlideEntry], device: torch.device, failures: FailureLog
) -> None:
    """Embed slides into `settings.out`; slides that are there are skipped, and those that fail are recorded.

    Args:
        origin: Origin of the bundle's embeddings.
        settings: Result of `embedding_settings`.
        entries: The slides.
        device: Device of the encoder.
        failures: Where slides that fail are recorded.

    Raises:
        UsageError: The encoder is not that of the bundle; both are named.
        WeightsError: The weights do not fit the encoder.
    """
    precision: Precision = compute.resolve_precision(settings.precision, device)
    geometry, _ = resolve_geometry(settings)
    encoder = encoder_of(replace(settings, allow_download=False), geometry, make_encoder)
    _require_same_tokens(encoder, geometry, origin.tokens, settings.weights)
    encoder.network.to(device)
    console.note(
        f"Encoder {encoder.name}, weights {encoder.weights_sha256[:12]}: patches of {geometry.patch_px} px at "
        f"{geometry.mpp:g} um/px, regions of {geometry.region_px} px, {precision}, as in training."
    )
    identity = CacheIdentity(settings, geometry, encoder, precision)
    identity.require_same_cache({entry.slide_id for entry in entries})
    make_folder(settings.out)
    names = {f"{entry.slide_id}{SUFFIX}" for entry in entries}
    remove_leftovers_of(settings.out, names)  # of an earlier run
    pipeline = EmbeddingPipeline([Lane(identity, device, failures)], lambda _path, _plan: None)
    with compute.explain_out_of_memory("Lower --batch-size; finished slides are kept."):
        pipeline.run(entries, len(entries))
    remove_leftovers_of(settings.out, names)  # of processes of this run that ended


def _require_same_tokens(
    encoder: Encoder, geometry: Geometry, tokens: Mapping[str, object], weights: Path | None
) -> None:
    found = {
        "encoder": encoder.name,
        "encoder_sha256": encoder.weights_sha256,
        "embedding_dim": encoder.embedding_dim,
        "encoder_input_px": encoder.input_px,
        "mean": list(encoder.mean),
        "std": list(encoder.std),
        "target_mpp": geometry.mpp,
        "patch_px": geometry.patch_px,
        "region_px": geometry.region_px,
    }
    differences = [
        f"{name}: {tokens.get(name)!r} in the bundle, {value!r} here"
        for name, value in found.items()
        if tokens.get(name) != value
    ]
    if differences:
        where = "" if weights is None else f" with {weights}"
        raise UsageError(
            f"The encoder {encoder.name}{where} or its geometry is not that of the bundle: {'; '.join(differences)}.",
            hint="Pass the weights file that the training slides were embedded with: --weights FILE.",
        )
