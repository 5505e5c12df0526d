"""Ways to divide a cohort, and the one that an evaluation uses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from slpd_toolkit.config.mil_eval import SPLIT_KINDS
from slpd_toolkit.mil.cohort.training_subsets import keep_fraction, keep_shots

if TYPE_CHECKING:
    from slpd_toolkit.config.mil_eval import MilEvalConfig
    from slpd_toolkit.mil.cohort.inputs import Inputs
    from slpd_toolkit.mil.cohort.splits import Split


class SplitKind(ABC):
    """A way to divide a cohort: one subclass in one file of `split_kinds/`, whose module names it as `SPLIT_KIND`.

    That file is imported when settings are checked: it imports scikit-learn inside functions only.
    """

    settings: ClassVar[frozenset[str]]
    """Settings of `slpd mil-eval` that only some split kinds use, and this one does."""
    makes_folds: ClassVar[bool] = False
    """Whether it divides into --folds folds itself."""

    @classmethod
    def columns(cls, settings: MilEvalConfig) -> list[str]:  # noqa: ARG003
        """Return the manifest columns that are needed."""
        return []

    @classmethod
    @abstractmethod
    def divide(cls, inputs: Inputs, settings: MilEvalConfig) -> tuple[list[Split], list[str]]:
        """Make or read the splits.

        Returns:
            The splits, and notes on them for the reader.

        Raises:
            UsageError: They cannot be made or read.
        """


def split_kind(name: str) -> type[SplitKind]:
    """Import a split kind.

    Raises:
        UsageError: There is none of this name; the message lists those that exist.
    """
    found: type[SplitKind] = SPLIT_KINDS.load(name).SPLIT_KIND
    return found


def divide(inputs: Inputs, settings: MilEvalConfig) -> tuple[list[Split], list[str]]:
    """Make or read the splits, and thin their training parts if fewer labels are asked for.

    Returns:
        The splits, and notes on them for the reader.

    Raises:
        UsageError: They cannot be made or read, name slides that are not evaluated (unless slides may be missing), or
            leave a part that nothing can be learnt from.
    """
    cohort = inputs.cohort
    splits, notes = split_kind(settings.kind_of_split).divide(inputs, settings)
    if settings.shots:
        splits = keep_shots(splits, cohort, settings.shots, seed=settings.seed)
    elif settings.train_fraction < 1:
        splits = keep_fraction(splits, cohort, settings.train_fraction, seed=settings.seed)
    return splits, notes
