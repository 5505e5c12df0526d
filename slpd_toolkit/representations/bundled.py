"""The representation of a bundle: described for its files, and opened again for new slides."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import PurePath
from typing import TYPE_CHECKING

from slpd_toolkit.config.region_selection import RegionSelectionConfig
from slpd_toolkit.core import console
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import agree, count, listed
from slpd_toolkit.mil.bundle.origin import Origin
from slpd_toolkit.models.region_vit import REGION_VIT
from slpd_toolkit.representations.models import DescribedModel, RegionModel, VectorTable
from slpd_toolkit.store.schema import COHORT_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from slpd_toolkit.mil.statistics.results import Representation
    from slpd_toolkit.representations.models import Model
    from slpd_toolkit.representations.opening import InferenceOptions
    from slpd_toolkit.store.schema import TokenMeta
    from slpd_toolkit.store.token_file import TokenFile

RECIPE_KEYS = (
    *("encoder", "mpp", "region_px", "patch_px", "mean", "std", "pooling", "seed"),
    *(item.name for item in fields(RegionSelectionConfig)),
)
"""Settings of `slpd embed` that determine tokens; paths and settings of the machine are left out."""

MASK_KEYS = ("mask_mode", "mask_classes", "mask_crop")
"""Likewise; stored only if a training slide had a mask."""
_FREE = "precision"


def origins_of(
    models: Sequence[Model], representations: Sequence[Representation], options: InferenceOptions
) -> dict[str, Origin]:
    """Describe the models that can be bundled, by name; see `without_bundle` for the others."""
    found = {}
    for model, representation in zip(models, representations, strict=True):
        regions = regions_of(model)
        if isinstance(model, VectorTable):
            found[model.name] = Origin("table", short_source(model.source), model.digest, representation.bags.width)
        elif regions is not None and not regions.over_stains:
            store = regions.cache.store
            found[model.name] = Origin(
                "mean-tokens" if regions.network is None else "region-vit",
                short_source(regions.source),
                regions.digest,
                representation.bags.width,
                options.view,
                options.precision,
                *tokens_of(store.meta, masked=is_masked(store.files)),
                regions.network,
                model.descriptor if isinstance(model, DescribedModel) else None,
            )
    return found


def regions_of(model: Model) -> RegionModel | None:
    """Return the model of regions that a model consists of or describes; None for vectors and for slide ViTs."""
    inner = model.regions if isinstance(model, DescribedModel) else model
    return inner if isinstance(inner, RegionModel) else None


def without_bundle(models: Sequence[Model]) -> list[str]:
    """Return the names of models that cannot be bundled: slide ViTs, and means over stain views."""
    usable = [isinstance(model, VectorTable) or not getattr(regions_of(model), "over_stains", True) for model in models]
    return [model.name for model, is_usable in zip(models, usable, strict=True) if not is_usable]


def require_bundles(models: Sequence[Model], *, final: bool) -> None:
    """Warn about models whose heads cannot be stored.

    Raises:
        UsageError: A head of all patients is requested, but no model's heads can be stored.
    """
    without = without_bundle(models)
    hint = "Write the vectors of slides with `slpd represent` and evaluate them as a table."
    if final and len(without) == len(models):
        raise UsageError(
            f"--final with --model {listed(without)}: slide ViTs and means over stain views have no bundle.",
            hint=hint,
        )
    console.warn_if(
        f"The heads of {listed(without)} are not stored for `slpd predict`, which cannot apply slide ViTs and means "
        f"over stain views to new slides. {hint}"
        if without
        else ""
    )


def tokens_of(meta: TokenMeta, *, masked: bool) -> tuple[dict[str, object], dict[str, object]]:
    """Describe the tokens of a cache: its shared attributes, and the settings of `slpd embed` that made it.

    Args:
        meta: Attributes of one of its files.
        masked: Whether user masks determined the regions of any slide.
    """
    return {name: _plain(getattr(meta, name)) for name in COHORT_FIELDS}, _recipe(meta, masked=masked)


def is_masked(files: Iterable[TokenFile]) -> bool:
    """Return whether user masks determined the regions of any slide."""
    return any(file.meta.mask for file in files)


def mask_warning(files: Sequence[TokenFile], *, trained: bool) -> str:
    """Return a warning if regions were chosen by masks in one cohort only; empty otherwise.

    Args:
        files: Token files of the other slides.
        trained: Whether masks chose the regions of training slides.
    """
    without = [file.meta.slide_id for file in files if not file.meta.mask]
    if trained and without:
        return (
            f"Masks chose the regions of the training slides, but not those of {count(len(without), 'slide')}: "
            f"{listed(without)}. {agree(len(without), 'Its prediction', 'Their predictions')} may be unreliable."
        )
    if not trained and is_masked(files):
        return (
            "Masks chose the regions of these slides, but not those of the training slides. Their predictions may "
            "be unreliable."
        )
    return ""


def differences_from(origin: Origin, meta: TokenMeta) -> str:
    """Name the attributes in which tokens differ from those of a bundle, with both values; empty if none does.

    The precision of the encoder hardly matters and may differ.
    """
    pairs = [(name, origin.tokens.get(name), _plain(getattr(meta, name))) for name in COHORT_FIELDS]
    return ", ".join(
        f"{name}: {one!r} in the bundle, {other!r} here" for name, one, other in pairs if one != other and name != _FREE
    )


def _recipe(meta: TokenMeta, *, masked: bool) -> dict[str, object]:
    """Return the settings that embed slides as the cache's were; empty for tokens of another tool."""
    if meta.source:
        return {}
    stored = json.loads(meta.recipe)
    keys = (*RECIPE_KEYS, *(MASK_KEYS if masked else ()))
    return {name: stored[name] for name in keys if name in stored}


def short_source(source: str) -> str:
    """Return the file name of a path, with the name of its run for region ViTs, whose files have the same name.

    A bundle may be published, and the names of other folders tell about the machine and its users.
    """
    parts = PurePath(source).parts
    return "/".join(parts[-2:] if parts and parts[-1] == REGION_VIT else parts[-1:])


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
