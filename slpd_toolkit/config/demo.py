"""Settings of `slpd demo`."""

from dataclasses import dataclass
from pathlib import Path

from slpd_toolkit.config.checks import require, require_at_least

FULL_SLIDES, TINY_SLIDES = 48, 12
_FULL_EPOCHS, _TINY_EPOCHS = 16, 2
LEAST_SLIDES = 12
"""Minimum for which every fold, and the held-out patients, contain both classes."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Run a study of synthetic slides in a few minutes: embed, pretrain (DINO and SLPD), evaluate, predict.

    slpd demo --out demo/
    """

    out: Path
    """Output folder for slides, token cache, runs, evaluation and figures. Run the same command again to resume."""

    tiny: bool = False
    """Run for less than a minute, only to check that everything works; the results are not meaningful."""

    slides: int = 0
    """Number of slides to generate. 0: 48, or 12 with --tiny."""

    epochs: int = 0
    """Number of epochs of each of the two pretraining runs. 0: 16, or 2 with --tiny."""

    seed: int = 0
    """Random seed of the slides, pretraining and evaluation."""

    jobs: int = 0
    """Number of processes that generate slides. 0: one per core, at most 8."""

    def __post_init__(self) -> None:
        """Check each value."""
        require(
            self.slides == 0 or self.slides >= LEAST_SLIDES,
            "--slides",
            self.slides,
            f"at least {LEAST_SLIDES}, or 0 (automatic)",
        )
        require_at_least(0, "epochs", self.epochs)
        require_at_least(0, "jobs", self.jobs)
        require(0 <= self.seed < 2**31, "--seed", self.seed, "0 to 2147483647")

    @property
    def slide_count(self) -> int:
        """Number of slides to generate."""
        return self.slides or (TINY_SLIDES if self.tiny else FULL_SLIDES)

    @property
    def epoch_count(self) -> int:
        """Number of epochs of each run."""
        return self.epochs or (_TINY_EPOCHS if self.tiny else _FULL_EPOCHS)
