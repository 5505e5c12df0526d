"""last.pt: everything needed to resume a run exactly, readable without executing code."""

from __future__ import annotations

import hashlib
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any

import torch

from slpd_toolkit.config.old_keys import without_old_keys
from slpd_toolkit.config.recipe import stage_of
from slpd_toolkit.config.settings import settings_of
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.models.weights import read_checkpoint, write_checkpoint
from slpd_toolkit.objectives.slide_prototypes import PrototypeBank
from slpd_toolkit.store.schema import COHORT_FIELDS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from slpd_toolkit.store.token_file import TokenStore
    from slpd_toolkit.training.run_folder import RunFolder
    from slpd_toolkit.training.state import TrainingState

MAY_CHANGE = frozenset(
    {
        "auto",
        "cache",
        "out",
        "init",
        "manifest",
        "where",
        "device",
        "workers",
        "log_every",
        "save_every_min",
        "tensorboard",
    }
)
"""Settings that may differ when a run is resumed, because they do not affect its results. The slides that `manifest`
and `where` select must be the same: see `describe_cohort`."""

_SUMS_0_1 = ("loss", "dino", "intra", "inter", "target_entropy", "centre_norm", "gradient_norm")


@dataclass
class Progress:
    """Progress of a run."""

    step: int = 0
    """Number of steps completed."""
    bank: PrototypeBank | None = None
    """Prototypes of the current epoch."""
    sums: Mapping[str, torch.Tensor] | None = None
    """Sums of metrics since the last row of metrics.csv, by name."""
    summed: int = 0
    """Number of steps in `sums`."""


def save_checkpoint(path: Path, state: TrainingState, recipe: Mapping[str, Any]) -> None:
    """Write `path` atomically."""
    progress = state.progress
    bank = progress.bank
    write_checkpoint(
        {
            "slpd": state.slpd.state_dict(),  # student, teacher and all centers
            "optimiser": state.optimiser.state_dict(),
            "scaler": state.scaler.state_dict(),
            "step": progress.step,
            "bank": None if bank is None else {item.name: getattr(bank, item.name) for item in fields(bank)},
            "sums": None if progress.sums is None else dict(progress.sums),
            "summed": progress.summed,
            "recipe": dict(recipe),
        },
        path,
    )


def load_checkpoint(folder: RunFolder, state: TrainingState) -> Progress:
    """Restore a run: networks, optimizer and scaler in `state`; return its progress.

    Raises:
        UsageError: The file is not a checkpoint, or the run has other settings; all differences are listed.
        WeightsError: The file is unreadable.
    """
    path, device = folder.checkpoint, state.device
    saved = read_checkpoint(path)
    if "recipe" not in saved:
        command = stage_of(folder.config_class)
        raise UsageError(f"{path} was not written by `slpd {command}`.", hint="Choose another --out.")
    refuse_other_recipe(path, saved["recipe"], folder.started_with, folder.config_class)
    state.slpd.load_state_dict(saved["slpd"])
    state.optimiser.load_state_dict(saved["optimiser"])
    state.scaler.load_state_dict(saved["scaler"])
    bank = None if saved["bank"] is None else PrototypeBank(**saved["bank"]).to(device)
    sums = saved["sums"]
    if torch.is_tensor(sums):  # version 0.1
        sums = dict(zip(_SUMS_0_1, sums, strict=True))
    sums = None if sums is None else {name: value.to(device) for name, value in sums.items()}
    return Progress(saved["step"], bank, sums, saved["summed"])


def describe_cohort(store: TokenStore) -> str:
    """Describe the regions of a cohort, with a digest: a run's order and prototypes refer to regions by index."""
    digest = hashlib.sha256(repr([getattr(store.meta, name) for name in COHORT_FIELDS]).encode())
    for slide in store.files:
        digest.update(slide.meta.slide_id.encode() + slide.coords.tobytes() + slide.header.digest.encode())
        if slide.present is not None:
            digest.update(slide.present.tobytes())
    regions = int(store.lengths.sum())
    return f"{len(store.files)} slides, {regions} regions of {store.meta.encoder} ({digest.hexdigest()[:8]})"


def refuse_other_recipe(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], config_class: type) -> None:
    """Raise a UsageError that lists every changed setting that would affect the run's results.

    A setting missing from the stored run was added later; its default is the earlier behavior.
    """
    defaults = {name: setting.default for name, setting in settings_of(config_class).items()}
    found = {name: value for name, value in defaults.items() if value is not MISSING} | dict(found)
    found = without_old_keys(config_class, found)
    names = sorted((found.keys() | wanted.keys()) - MAY_CHANGE)
    pairs = [(name, found.get(name), wanted.get(name)) for name in names]
    changed = [f"{name}: {one} in the run, now {other}" for name, one, other in pairs if one != other]
    if changed:
        raise UsageError(
            f"{path.parent} contains a run with other settings: {'; '.join(changed)}.",
            hint="Choose another --out, or use the same settings to resume.",
        )
