"""Settings that both kinds of pretraining share: which slides, and how a run is executed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from slpd_toolkit.config.checks import require, require_at_least, require_manifest
from slpd_toolkit.config.optimisation import OptimisationConfig
from slpd_toolkit.core.precision import Precision


@dataclass(frozen=True, kw_only=True)
class TrainingSlidesConfig:
    """Which slides of the cache are used for training."""

    manifest: Path | None = None
    """Cohort CSV. With it, only the slides that it lists are used for training."""

    where: tuple[str, ...] = ()
    """Use only manifest rows that meet this condition: `split=train`, `site=A2,BH` (any of these) or
    `split!=test`. Repeat the option to require several conditions."""

    def __post_init__(self) -> None:
        """Check that conditions have a manifest."""
        require_manifest(self.where, self.manifest)


@dataclass(frozen=True, kw_only=True)
class RunningConfig:
    """How a run is executed and recorded."""

    precision: Precision = "auto"
    """Precision of training. `auto`: bf16 if the device supports it natively, otherwise fp32. fp16 (with loss scaling)
    is for GPUs only."""

    device: str = "auto"
    """Device: `auto` (GPU if available), `cpu`, `cuda`, `mps`. Under torchrun, each process uses its own GPU."""

    workers: int = 2
    """Number of threads that prepare batches ahead of training."""

    seed: int = 0
    """Random seed of weights, data order, views, stochastic depth and k-means."""

    log_every: int = 20
    """Number of steps per row of metrics.csv."""

    save_every_min: float = 10.0
    """Minutes between checkpoints (last.pt) within an epoch; one is also written at the end of every epoch."""

    tensorboard: bool = False
    """Also write TensorBoard event files (requires the tensorboard extra)."""

    def __post_init__(self) -> None:
        """Check each value."""
        for name in ("workers", "log_every"):
            require_at_least(1, name, getattr(self, name))
        require_at_least(0, "save_every_min", self.save_every_min)
        require(0 <= self.seed < 2**31, "--seed", self.seed, "0 to 2147483647")  # faiss takes 31 bits


class Planned(Protocol):
    """Settings that determine the steps of a run."""

    @property
    def optimisation(self) -> OptimisationConfig:
        """Optimizer and its schedules."""

    @property
    def epochs(self) -> int:
        """Number of passes over all samples."""

    @property
    def batch_size(self) -> int:
        """Samples per step and process."""

    @property
    def accumulate(self) -> int:
        """Number of parts of each step."""

    @property
    def running(self) -> RunningConfig:
        """How the run is executed."""


def check_length(config: Planned) -> None:
    """Check the length and the batches of a run.

    Raises:
        UsageError: A value is below 1, or batches cannot be split into equal parts.
    """
    for name in ("epochs", "batch_size", "accumulate"):
        require_at_least(1, name, getattr(config, name))
    require(
        config.batch_size % config.accumulate == 0,
        "--accumulate",
        config.accumulate,
        f"a divisor of --batch-size ({config.batch_size})",
    )
