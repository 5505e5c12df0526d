"""Settings whose value names an entry of a registry: `--help` lists the entries."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import Field

    from slpd_toolkit.core.registry import Registry

_REGISTRY = "registry"


def chosen_from(registry: Registry, *, default: object) -> Any:
    """Declare a setting that names one or more entries of a registry."""
    return field(default=default, metadata={_REGISTRY: registry})


def choices_help(item: Field[Any]) -> str:
    """List the entries that a setting may name, each with its summary; empty for other settings."""
    registry: Registry | None = item.metadata.get(_REGISTRY)
    if registry is None:
        return ""
    entries = [f"`{name}`: {registry.summary(name).rstrip('.')}" for name in registry.names()]
    return f"Choices: {'; '.join(entries)}."
