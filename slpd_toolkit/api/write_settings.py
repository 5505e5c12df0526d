"""Write settings.py: the settings of every command as types, for editors and type checkers.

python -m slpd_toolkit.api.write_settings
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from slpd_toolkit.api import calls, commands
from slpd_toolkit.config.settings import settings_of
from slpd_toolkit.core.files import write_text

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = Path(commands.__file__).with_name("settings.py")

_HEAD = '''"""The settings of every command as types. Written by `python -m slpd_toolkit.api.write_settings`."""

import os
from collections.abc import Sequence
from typing import Literal, TypedDict

StrPath = str | os.PathLike[str]
'''


def text() -> str:
    """Return the text of settings.py."""
    return "\n".join([_HEAD, *(line for config in calls.ARGUMENTS for line in _settings(config))])


def _settings(config: type) -> Iterator[str]:
    name = config.__name__.removesuffix("Config")
    yield from ("", f"class {name}Settings(TypedDict, total=False):", f'    """Settings of `{name}Config`."""', "")
    yield "    recipe: StrPath | None"
    for setting in settings_of(config).values():
        if setting.name not in calls.ARGUMENTS[config]:
            yield f"    {setting.name}: {_annotation(setting.type)}"
    yield ""


def _annotation(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType}:
        return " | ".join(_annotation(option) for option in arguments)
    if origin is Literal:
        choices = ", ".join(f'"{value}"' for value in arguments)
        return f"Literal[{choices}]"
    if origin is tuple:
        return "StrPath | Sequence[StrPath]"
    return {Path: "StrPath", type(None): "None"}.get(hint, getattr(hint, "__name__", ""))


if __name__ == "__main__":
    write_text(FILE, text())
