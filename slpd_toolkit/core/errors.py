"""Errors that a user can cause. Each message states what failed, what was found, what is allowed and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager


class SlpdError(Exception):
    """Base class of errors that are shown to the user as a message, without a traceback.

    Args:
        message: What went wrong, with the value found and what is allowed.
        hint: What to do next, in one sentence. Shown after the message and written to `failures.csv`.

    >>> try:
    ...     slpd.TokenStore.open("absent")
    ... except slpd.SlpdError as error:
    ...     print(error.message, "|", error.hint)
    Token cache absent does not exist. | Write one with `slpd embed`.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class UsageError(SlpdError):
    """The command line, a recipe or a manifest is invalid. No work has been started."""

    exit_code = 2


class SlideError(SlpdError):
    """One slide cannot be used. The run continues with the others and lists the slide in `failures.csv`."""


class CacheError(SlpdError):
    """A token file or token cache is unreadable, or does not match what this run expects."""


class WeightsError(SlpdError):
    """A weights file cannot be read safely, or its keys or shapes do not match the model."""

    exit_code = 2


class TrainingError(SlpdError):
    """Training cannot continue because the loss is not finite. The last good checkpoint is kept."""


class DeviceMemoryError(SlpdError):
    """The device does not have enough memory for these settings. Files already written are kept."""


class Problems:
    """Collects the errors of several checks so that they can be reported together."""

    def __init__(self) -> None:
        self.found: list[SlpdError] = []

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Collect an `SlpdError` raised in the block and continue after it."""
        try:
            yield
        except SlpdError as error:
            self.found.append(error)

    def raise_any(self) -> None:
        """Raise the collected errors: a single one unchanged, several as one `UsageError` with a line each."""
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            lines = "".join(f"\n  - {error}" for error in self.found)
            raise UsageError(f"{len(self.found)} problems found:{lines}")
