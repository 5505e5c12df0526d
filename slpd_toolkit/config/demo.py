"""Settings of `slpd demo`."""

from dataclasses import dataclass
from pathlib import Path

from slpd_toolkit.config.checks import require, require_at_least

FULL_SLIDES, TINY_SLIDES = 48, 10
FULL_EPOCHS, TINY_EPOCHS = 20, 2
LEAST_SLIDES = 10
"""Fewer cannot be divided into folds that hold both classes."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The whole way on synthetic slides, in five minutes: slides, tokens, two pretrainings, and what they are worth."""

    out: Path
    """Folder for slides, token cache, runs, evaluation and pictures. The same command goes on where it was stopped."""

    tiny: bool = False
    """Half a minute instead of five, to see that everything works. Its numbers mean nothing."""

    slides: int = 0
    """Slides to paint. 0: 48, or 10 with --tiny."""

    epochs: int = 0
    """Passes over all regions in each of the two pretrainings. 0: 20, or 2 with --tiny."""

    seed: int = 0
    """Seed of the slides, of the pretrainings and of the evaluation."""

    jobs: int = 0
    """Processes that paint slides. 0: one a core, at most 8."""

    def __post_init__(self) -> None:
        """Check each value."""
        require(
            self.slides == 0 or self.slides >= LEAST_SLIDES,
            "--slides",
            self.slides,
            f"at least {LEAST_SLIDES}, or 0 (choose)",
        )
        require_at_least(0, "epochs", self.epochs)
        require_at_least(0, "jobs", self.jobs)
        require(0 <= self.seed < 2**31, "--seed", self.seed, "0 to 2147483647")

    @property
    def slide_count(self) -> int:
        """Slides to paint."""
        return self.slides or (TINY_SLIDES if self.tiny else FULL_SLIDES)

    @property
    def epoch_count(self) -> int:
        """Epochs of each pretraining."""
        return self.epochs or (TINY_EPOCHS if self.tiny else FULL_EPOCHS)
