"""Validation of configuration values."""

from slpd_toolkit.core.errors import UsageError


def require(condition: bool, flag: str, got: object, allowed: str, hint: str = "") -> None:  # noqa: FBT001
    """Raise a `UsageError` that names the flag, the value and the allowed values, unless `condition` holds."""
    if not condition:
        raise UsageError(f"{flag}: got {got}, allowed: {allowed}.", hint=hint)


def require_at_least(least: float, name: str, got: float) -> None:
    """Raise a `UsageError` unless the attribute `name` is a finite number of at least `least`."""
    require(least <= got < float("inf"), flag(name), got, f"at least {least}")


def flag(name: str) -> str:
    """Return the command-line flag of an attribute."""
    return f"--{name.replace('_', '-')}"
