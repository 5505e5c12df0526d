"""The command line that is equal to a configuration."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slpd_toolkit.config.checks import flag
from slpd_toolkit.config.recipe import read_recipe
from slpd_toolkit.config.settings import flatten, settings_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def command_words(command: str, config: Any, arguments: Sequence[str], recipe: Path | None = None) -> list[str]:
    """Return the words of a command line whose settings are those of `config`.

    Args:
        command: Name of the command: `mil-eval`.
        config: Its configuration.
        arguments: Settings that are positional arguments.
        recipe: Recipe that `config` was built with. Its values, or defaults without one, are left out.
    """
    known, values = settings_of(type(config)), flatten(config)
    words = ["slpd", *command.split(), *(os.fspath(values[name]) for name in arguments)]
    of_recipe = {} if recipe is None else read_recipe(type(config), recipe)
    chosen, left = set(of_recipe.get("auto", ())), values.get("auto", ())
    if recipe is not None:
        words += _option("recipe", recipe)
    for name, value in values.items():
        if name in arguments or name in left or value is None or (recipe is not None and name == "auto"):
            continue
        if value != of_recipe.get(name, known[name].default) or name in chosen:
            words += _option(name, value)
    return words


def command_line(command: str, config: Any, arguments: Sequence[str], recipe: Path | None = None) -> str:
    """Return the command of `command_words` as shell text."""
    return wrapped(command_words(command, config, arguments, recipe))


def wrapped(words: Sequence[str], width: int = 100) -> str:
    """Quote words for a shell, and break the line before options."""
    lines, line = [], ""
    for group in _groups(words):
        text = shlex.join(group)
        if line and len(line) + len(text) + 3 > width:
            lines.append(f"{line} \\")
            line = "  " + text
        else:
            line = f"{line} {text}".strip() if not line.startswith("  ") else f"{line} {text}"
    return "\n".join([*lines, line])


def _groups(words: Sequence[str]) -> Iterator[list[str]]:
    """Yield the command, then each option with its value."""
    group: list[str] = []
    for word in words:
        if word.startswith("--") and group:
            yield group
            group = []
        group.append(word)
    yield group


def _option(name: str, value: object) -> list[str]:
    dashed = flag(name)
    if isinstance(value, bool):
        return [dashed if value else f"--no-{dashed.removeprefix('--')}"]
    if isinstance(value, tuple):
        return [word for item in value for word in (dashed, _text(item))]
    return [dashed, _text(value)]


def _text(value: object) -> str:
    return os.fspath(value) if isinstance(value, Path) else str(value)
