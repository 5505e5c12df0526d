"""The settings of a command as one flat table, independent of the dataclasses that its configuration is composed of.

A configuration is a frozen dataclass whose fields are settings or further dataclasses (the parts). Flags and recipe
keys are the names of the settings alone, so each name may occur only once in a configuration and all of its parts.
"""

import ast
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, get_type_hints

from slpd_toolkit.config.choices import choices_help

Config = TypeVar("Config")

_SECTION = re.compile(r"    # -- (.+) --$")
_ATTRIBUTE = re.compile(r"    (\w+): ")
_ENTRIES = "entries"


@dataclass(frozen=True)
class Setting:
    """One setting: a flag on the command line and a key of recipes."""

    name: str
    """Key in recipes, unique in the configuration."""
    type: Any
    """Type annotation."""
    default: Any
    """Default value; `dataclasses.MISSING` if the setting is required."""
    help: str
    """Description, on one line."""
    section: str = ""
    """Title of the section that it is listed under; empty before the first."""
    key: str = ""
    """Key in the mapping that holds it; empty if it is an attribute."""


def settings_of(config_class: type) -> dict[str, Setting]:
    """Return all settings of a configuration and its parts by name, in order.

    Settings of a part are listed in the section of the field that holds the part.

    Raises:
        TypeError: Two settings have the same name, or a setting has no docstring.
    """
    found: dict[str, Setting] = {}
    for setting in _walk(config_class):
        if setting.name in found:
            raise TypeError(f"{config_class.__name__}: two settings are named {setting.name}")
        if not setting.help:
            raise TypeError(f"{config_class.__name__}: the setting {setting.name} has no docstring")
        found[setting.name] = setting
    return found


def assemble(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    """Build a configuration and its parts from flat values; missing ones take their defaults.

    Args:
        config_class: The dataclass to build.
        values: Values by name of setting. Names that `settings_of` does not list are ignored.
    """
    arguments: dict[str, Any] = {}
    hints = get_type_hints(config_class)
    for item in fields(config_class):  # type: ignore[arg-type]  # a dataclass
        if is_dataclass(hints[item.name]):
            arguments[item.name] = assemble(hints[item.name], values)
        elif _ENTRIES in item.metadata:
            entries = item.metadata[_ENTRIES]()
            arguments[item.name] = {entry.key: values[entry.name] for entry in entries if entry.name in values}
        elif item.name in values:
            arguments[item.name] = values[item.name]
    return config_class(**arguments)


def flatten(config: Any) -> dict[str, Any]:
    """Return the values of a configuration and its parts by name of setting; the inverse of `assemble`."""
    values: dict[str, Any] = {}
    for item in fields(config):
        value: Any = getattr(config, item.name)
        if is_dataclass(value):
            values |= flatten(value)
        elif _ENTRIES in item.metadata:
            values |= {entry.name: value[entry.key] for entry in item.metadata[_ENTRIES]()}
        else:
            values[item.name] = value
    return values


def one_setting_per_entry(entries: Callable[[], tuple[Setting, ...]]) -> dict[str, Any]:
    """Return the metadata of a mapping field, each entry of which is a setting with its own flag.

    Args:
        entries: Returns the settings; `Setting.key` is the key of each in the mapping.
    """
    return {_ENTRIES: entries}


def default_help(setting: Setting) -> str:
    """Describe the default of a setting; empty if there is none or the help text describes it."""
    default = setting.default
    if default is MISSING:
        return "Required, here or in the recipe."
    if isinstance(default, bool):
        return "Default: on." if default else "Default: off."
    if isinstance(default, tuple):
        return f"Default: {', '.join(map(str, default))}." if default else ""
    return f"Default: {default}." if isinstance(default, str | int | float) and default != "" else ""


def _walk(config_class: Any) -> Iterator[Setting]:
    hints, described, sections = get_type_hints(config_class), _docstrings(config_class), _sections(config_class)
    for item in fields(config_class):
        if is_dataclass(hints[item.name]):
            within: Any = _walk(hints[item.name])
        elif _ENTRIES in item.metadata:
            within = item.metadata[_ENTRIES]()
        else:
            text = f"{described.get(item.name, '')} {choices_help(item)}".strip()
            yield Setting(item.name, hints[item.name], _default(item), text, sections[item.name])
            continue
        section = sections[item.name]
        yield from (Setting(**(vars(setting) | {"section": section})) for setting in within)


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


@cache
def _docstrings(config_class: type) -> dict[str, str]:
    """Read the docstring under each attribute of a dataclass, as one line: attribute -> text."""
    body = ast.parse(inspect.getsource(config_class).lstrip()).body[0]
    assert isinstance(body, ast.ClassDef)
    documented = _inherited(_docstrings, config_class)
    for attribute, comment in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(attribute, ast.AnnAssign)
            and isinstance(attribute.target, ast.Name)
            and isinstance(comment, ast.Expr)
        ):
            documented[attribute.target.id] = " ".join(str(ast.literal_eval(comment.value)).split())
    return documented


@cache
def _sections(config_class: type) -> dict[str, str]:
    """Read the `# -- title --` comments between a dataclass's attributes: attribute -> title, "" before the first."""
    title, sections = "", _inherited(_sections, config_class)
    for line in inspect.getsource(config_class).splitlines():
        if heading := _SECTION.match(line):
            title = heading[1]
        elif attribute := _ATTRIBUTE.match(line):
            sections[attribute[1]] = title
    return sections


def _inherited(read: Callable[[type], dict[str, str]], config_class: type) -> dict[str, str]:
    return {name: text for base in config_class.__bases__ if is_dataclass(base) for name, text in read(base).items()}
