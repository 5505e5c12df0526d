"""Base class of split kinds, and splitting of a cohort according to the settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from slpd_toolkit.config.mil_eval import SPLIT_KINDS
from slpd_toolkit.mil.cohort.training_subsets import keep_fraction, keep_shots

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.config.mil_eval import MilEvalConfig
    from slpd_toolkit.mil.cohort.inputs import Inputs
    from slpd_toolkit.mil.cohort.patients import Cohort
    from slpd_toolkit.mil.cohort.splits import Split


class SplitKind(ABC):
    """A method to split a cohort: a subclass in a file of `split_kinds/`, whose module defines it as `SPLIT_KIND`.

    The file is imported when settings are checked, so it must import scikit-learn inside functions only.
    """

    settings: ClassVar[frozenset[str]]
    """Settings of `slpd mil-eval` that are specific to some split kinds and used by this one."""
    makes_folds: ClassVar[bool] = False
    """Whether it creates --folds folds itself."""

    @classmethod
    def columns(cls, settings: MilEvalConfig) -> list[str]:  # noqa: ARG003
        """Return the required manifest columns."""
        return []

    @classmethod
    @abstractmethod
    def divide(cls, inputs: Inputs, settings: MilEvalConfig) -> tuple[list[Split], list[str]]:
        """Create or read the splits.

        Returns:
            The splits, and notes about them for the user.

        Raises:
            UsageError: The splits cannot be created or read.
        """


def split_kind(name: str) -> type[SplitKind]:
    """Import a split kind.

    Raises:
        UsageError: There is none with this name; the message lists those that exist.
    """
    found: type[SplitKind] = SPLIT_KINDS.load(name).SPLIT_KIND
    return found


def divide(inputs: Inputs, settings: MilEvalConfig) -> tuple[list[Split], list[str]]:
    """Create or read the splits.

    Returns:
        The splits, and notes about them for the user.

    Raises:
        UsageError: The splits cannot be created or read, contain slides that are not evaluated (unless slides may be
            missing), or have a training part from which the task cannot be learned.
    """
    return split_kind(settings.kind_of_split).divide(inputs, settings)


def fewer_labels(splits: Sequence[Split], cohort: Cohort, settings: MilEvalConfig) -> list[Split]:
    """Reduce the training parts if fewer labels are requested."""
    if settings.shots:
        return keep_shots(splits, cohort, settings.shots, seed=settings.seed)
    if settings.train_fraction < 1:
        return keep_fraction(splits, cohort, settings.train_fraction, seed=settings.seed)
    return list(splits)
