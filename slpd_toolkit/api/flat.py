"""The settings of a configuration as one table."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any, get_type_hints

from slpd_toolkit.config import recipe as recipes


@dataclass(frozen=True)
class Setting:
    """One setting: a flag on the command line and a key of recipes."""

    name: str
    type: Any
    default: Any
    """`dataclasses.MISSING` if the setting is required."""
    help: str


def settings_of(config_class: type) -> dict[str, Setting]:
    """Return every setting of a configuration, by name and in order."""
    hints, described = get_type_hints(config_class), recipes.option_help(config_class)
    return {
        item.name: Setting(item.name, hints[item.name], item.default, described[item.name])
        for item in fields(config_class)
    }


def is_required(setting: Setting) -> bool:
    """Whether a setting has no default."""
    return setting.default is MISSING
