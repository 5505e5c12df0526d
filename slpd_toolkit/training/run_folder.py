"""Folder of a pretraining run and the files in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from slpd_toolkit.config.recipe import ABOUT, RECIPE
from slpd_toolkit.core import compute
from slpd_toolkit.core.files import claim_folder, write_csv, write_text
from slpd_toolkit.core.toml import toml_text
from slpd_toolkit.core.version import __version__
from slpd_toolkit.models.region_vit import REGION_VIT
from slpd_toolkit.store.schema import COHORT_FIELDS
from slpd_toolkit.training.checkpoint import describe_cohort, save_checkpoint
from slpd_toolkit.training.metrics_file import MetricsLog
from slpd_toolkit.training.prototype_file import describe_prototypes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from slpd_toolkit.objectives.slide_prototypes import PrototypeBank
    from slpd_toolkit.store.token_file import TokenStore
    from slpd_toolkit.training.processes import Processes
    from slpd_toolkit.training.state import TrainingState

LAST, PROTOTYPES = "last.pt", "prototypes.h5"
METRICS, SLIDES, CURVES = "metrics.csv", "slides.csv", "curves.svg"
TENSORBOARD = "tensorboard"


class RunFolder:
    """Writes the files of a run. Only the first process writes; in all others every method returns immediately.

    Args:
        path: The folder.
        recipe: All settings of the run, with the resolved precision.
        store: Token cache that the run trains on.
        processes: Processes of the run.
        views: Stain views of the cache that the run uses.
    """

    def __init__(
        self,
        path: Path,
        recipe: Mapping[str, Any],
        store: TokenStore,
        processes: Processes,
        views: Sequence[TokenStore] = (),
    ) -> None:
        self.path, self.store, self.processes = path, store, processes
        self.recipe = dict(recipe)
        cohort = "; stain view ".join(describe_cohort(each) for each in (store, *views))
        self.started_with = {**recipe, "processes": processes.world, "cohort": cohort}
        self._metrics: MetricsLog | None = None

    @property
    def checkpoint(self) -> Path:
        """Path of last.pt, which exists once the run has saved its state."""
        return self.path / LAST

    def claim(self) -> None:
        """Create the folder and remove partial files of a killed run, before hours of work rather than after."""
        if self.processes.first:
            claim_folder(self.path, (LAST, REGION_VIT, PROTOTYPES, METRICS, RECIPE, SLIDES, CURVES))

    def open(self, after_step: int, *, tensorboard: bool) -> None:
        """Write the recipe and the list of slides, and open metrics.csv.

        Args:
            after_step: Number of steps completed; rows of later steps are dropped from metrics.csv.
            tensorboard: Whether to also write event files.
        """
        if not self.processes.first:
            return
        about = {
            "toolkit": __version__,
            "torch": torch.__version__,
            "device": compute.describe(self.processes.device),
            "processes": self.processes.world,
            "cohort": self.started_with["cohort"],
        }
        write_text(self.path / RECIPE, toml_text({**self.recipe, ABOUT: about}))
        slides = [{"slide_id": slide.meta.slide_id, "regions": len(slide)} for slide in self.store.files]
        write_csv(self.path / SLIDES, ["slide_id", "regions"], slides)
        self._metrics = MetricsLog(self.path / METRICS, after_step, self.path / TENSORBOARD if tensorboard else None)

    def add_metrics(self, row: Mapping[str, object]) -> None:
        """Append a row to metrics.csv."""
        if self._metrics is not None:
            self._metrics.add(row)

    def write_prototypes(self, bank: PrototypeBank, bottleneck: Tensor, step: int) -> None:
        """Write prototypes.h5.

        Args:
            bank: Prototypes and neighbors.
            bottleneck: (R, d) unit vectors of all regions.
            step: Number of training steps of the teacher.
        """
        if self.processes.first:
            describe_prototypes(self.store, bank, bottleneck, step).write(self.path / PROTOTYPES)

    def save(self, state: TrainingState) -> None:
        """Write region_vit.pt and last.pt."""
        if not self.processes.first:
            return
        provenance = {name: getattr(self.store.meta, name) for name in COHORT_FIELDS} | {"step": state.progress.step}
        # last.pt is written last: a run killed between the two files repeats the steps and rewrites both.
        state.slpd.teacher.backbone.save(self.path / REGION_VIT, provenance)
        save_checkpoint(self.checkpoint, state.slpd, state.optimiser, state.scaler, state.progress, self.started_with)

    def close(self) -> None:
        """Close metrics.csv."""
        if self._metrics is not None:
            self._metrics.close()
