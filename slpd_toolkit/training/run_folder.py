"""Folder of a pretraining run and the files in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from slpd_toolkit.config.recipe import ABOUT, RECIPE, as_recipe
from slpd_toolkit.core import compute
from slpd_toolkit.core.files import claim_folder, write_csv, write_text
from slpd_toolkit.core.result_folders import require_results_of
from slpd_toolkit.core.toml import toml_text
from slpd_toolkit.core.version import __version__
from slpd_toolkit.models.region_vit import REGION_VIT
from slpd_toolkit.training.checkpoint import save_checkpoint
from slpd_toolkit.training.metrics_file import MetricsLog

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from slpd_toolkit.core.precision import Precision
    from slpd_toolkit.training.processes import Processes
    from slpd_toolkit.training.state import TrainingState

LAST, PROTOTYPES = "last.pt", "prototypes.h5"
METRICS, SLIDES, CURVES = "metrics.csv", "slides.csv", "curves.svg"
TENSORBOARD = "tensorboard"


@dataclass(frozen=True)
class RunCohort:
    """What a run trains on, as its folder records it."""

    description: str
    """Description with a digest; a run is resumed only on the same cohort."""
    slides: Mapping[str, int]
    """Number of regions of each slide."""
    provenance: Mapping[str, Any]
    """Stored with the weights."""


class RunFolder:
    """Writes the files of a run. Only the first process writes; in all others every method returns immediately.

    Args:
        path: The folder.
        config: Settings of the run.
        precision: The resolved precision.
        cohort: What the run trains on.
        processes: Processes of the run.
        weights: Name of the file of the teacher's backbone.
        others: Names of other files that runs of this command write.
    """

    def __init__(
        self,
        path: Path,
        config: Any,
        precision: Precision,
        cohort: RunCohort,
        processes: Processes,
        weights: str,
        others: Sequence[str] = (),
    ) -> None:
        self.path, self.cohort, self.processes, self.config_class = path, cohort, processes, type(config)
        self.recipe = as_recipe(config) | {"precision": precision}
        self.started_with = {**self.recipe, "processes": processes.world, "cohort": cohort.description}
        self._weights, self._others = weights, tuple(others)
        self._metrics: MetricsLog | None = None

    @property
    def checkpoint(self) -> Path:
        """Path of last.pt, which exists once the run has saved its state."""
        return self.path / LAST

    @property
    def weights(self) -> Path:
        """Path of the teacher's backbone."""
        return self.path / self._weights

    def claim(self) -> None:
        """Create the folder and remove partial files of a killed run, before hours of work rather than after.

        Raises:
            UsageError: It cannot be written to, or has results of another command.
        """
        if self.processes.first:
            require_results_of("pretrain" if self._weights == REGION_VIT else "pretrain-slides", self.path)
            claim_folder(self.path, (LAST, self._weights, *self._others, METRICS, RECIPE, SLIDES, CURVES))

    def open(self, after_step: int, columns: Sequence[str], *, tensorboard: bool) -> None:
        """Write the recipe and the list of slides, and open metrics.csv.

        Args:
            after_step: Number of steps completed; rows of later steps are dropped from metrics.csv.
            columns: Columns of metrics.csv.
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
        slides = [{"slide_id": slide, "regions": regions} for slide, regions in self.cohort.slides.items()]
        write_csv(self.path / SLIDES, ["slide_id", "regions"], slides)
        events = self.path / TENSORBOARD if tensorboard else None
        self._metrics = MetricsLog(self.path / METRICS, after_step, columns, events)

    def add_metrics(self, row: Mapping[str, object]) -> None:
        """Append a row to metrics.csv."""
        if self._metrics is not None:
            self._metrics.add(row)

    def save(self, state: TrainingState) -> None:
        """Write the teacher's backbone and last.pt."""
        if not self.processes.first:
            return
        provenance = dict(self.cohort.provenance) | {"step": state.progress.step}
        # last.pt is written last: a run killed between the two files repeats the steps and rewrites both.
        state.slpd.teacher.backbone.save(self.weights, provenance)
        save_checkpoint(self.checkpoint, state, self.started_with)

    def close(self) -> None:
        """Close metrics.csv."""
        if self._metrics is not None:
            self._metrics.close()
