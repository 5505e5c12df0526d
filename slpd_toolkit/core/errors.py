"""The errors that a user can cause, each with a message that says what, got, allowed, and what to do next."""

from collections.abc import Iterator
from contextlib import contextmanager


class SlpdError(Exception):
    """Base of every error that is shown to the user as a message, never as a traceback.

    Args:
        message: What went wrong, with the value that was found and what is allowed.
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
    """The command, a recipe or a manifest asks for something that cannot be done. Nothing has been started."""

    exit_code = 2


class SlideError(SlpdError):
    """One slide cannot be used. The run goes on with the others and lists it in `failures.csv`."""


class CacheError(SlpdError):
    """A token file or a token cache is unreadable, or disagrees with what this run expects of it."""


class WeightsError(SlpdError):
    """A weights file cannot be read safely, or its keys and shapes are not those of the model."""

    exit_code = 2


class TrainingError(SlpdError):
    """Training cannot go on: the loss is no longer finite. The last good checkpoint is kept."""


class DeviceMemoryError(SlpdError):
    """The device has too little memory for these settings. What was written before is kept."""


class Problems:
    """Gathers what several checks find, so that a user is told everything at once."""

    def __init__(self) -> None:
        self.found: list[SlpdError] = []

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Keep an error that a user can cause, and go on after the block."""
        try:
            yield
        except SlpdError as error:
            self.found.append(error)

    def raise_any(self) -> None:
        """Raise what was found: the only error as it is, several as one `UsageError` with a line each."""
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            lines = "".join(f"\n  - {error}" for error in self.found)
            raise UsageError(f"{len(self.found)} things are wrong:{lines}")
