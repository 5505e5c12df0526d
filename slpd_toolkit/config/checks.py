"""Validation of configuration values."""

from collections.abc import Sequence
from pathlib import Path

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.row_filter import parse_condition


def require(condition: bool, flag: str, got: object, allowed: str, hint: str = "") -> None:  # noqa: FBT001
    """Raise a `UsageError` that names the flag, the value and the allowed values, unless `condition` holds."""
    if not condition:
        raise UsageError(f"{flag}: got {got}, allowed: {allowed}.", hint=hint)


def require_at_least(least: float, name: str, got: float) -> None:
    """Raise a `UsageError` unless the attribute `name` is a finite number of at least `least`."""
    require(least <= got < float("inf"), flag(name), got, f"at least {least}")


def require_manifest(where: Sequence[str], manifest: Path | None, flag: str = "--where") -> None:
    """Raise a `UsageError` unless the conditions of `--where` can be parsed and have a manifest to select from."""
    for text in where:
        parse_condition(text)
    require(not where or manifest is not None, flag, ", ".join(where), "only with --manifest", "Add --manifest CSV.")


def flag(name: str) -> str:
    """Return the command-line flag of an attribute; one that is a keyword of Python ends in `_`, as in `as_`."""
    return f"--{name.rstrip('_').replace('_', '-')}"


def require_cluster(address: str) -> None:
    """Check the form of `--cluster`.

    Raises:
        UsageError: It is neither empty, nor `auto`, nor the address of a cluster.
    """
    require(address in {"", "auto"} or address.startswith("ray://"), "--cluster", address, "auto or ray://HOST:10001")
