"""Reference pages that are made from the program: a line `<!-- generated: ... -->` in a page becomes its text.

`commands` is every command's own help, `settings` every attribute of every configuration, `recipes` every shipped
recipe. Nothing is written by hand, so nothing can go out of date.
"""

from __future__ import annotations

import os
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import typer.main
from typer.testing import CliRunner

from docs._ext import ablation, encoders, hardware
from slpd_toolkit.cli import app as cli
from slpd_toolkit.config import recipe as recipes
from slpd_toolkit.config.settings import Setting, default_help, settings_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

_HELP_COLUMNS = 92


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the replacement."""
    app.connect("source-read", _replace)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _replace(_app: Sphinx, _page: str, source: list[str]) -> None:
    for name, make in GENERATED.items():
        marker = f"<!-- generated: {name} -->"
        if marker in source[0]:
            source[0] = source[0].replace(marker, "\n".join(make()))


def commands() -> Iterator[str]:
    """Show the help of `slpd` and of each command, in the order of `slpd --help`."""
    yield from _help(())
    for path in command_paths():
        yield from ("", f"## `slpd {' '.join(path)}`", "")
        yield from _help(path)


def command_paths() -> list[tuple[str, ...]]:
    """The words that call each command that does something, in the order of `slpd --help`."""

    def walk(group: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name, command in group.commands.items():
            yield from walk(command, (*path, name)) if hasattr(command, "commands") else [(*path, name)]

    return list(walk(typer.main.get_command(cli.app), ()))


def settings() -> Iterator[str]:
    """Make a table for each section of each configuration."""
    for config_class in dict.fromkeys(cli.CONFIGS.values()):
        named = [name for name, config in cli.CONFIGS.items() if config is config_class]
        command = named[0] if len(named) == 1 else named[0].split()[0]  # one for each tool of `slpd import`
        yield from ("", f"## `slpd {command}`", "")
        known = settings_of(config_class).values()
        for title in dict.fromkeys(setting.section for setting in known):
            if title:
                yield from ("", f"### {title} of `{command}`", "")
            yield from ("| key | type | default | meaning |", "|---|---|---|---|")
            for setting in known:
                if setting.section == title:
                    cells = (f"`{setting.name}`", _type(setting.type), _default(setting), setting.help)
                    yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def shipped_recipes() -> Iterator[str]:
    """Include each shipped recipe as it is."""
    folder = recipes.shipped_folder("stages")
    for path in sorted(folder.rglob("*.toml")):
        name = path.relative_to(folder.parent).as_posix()
        relative = os.path.relpath(path, Path(__file__).parents[1])
        yield from ("", f"## `{name}`", "", f"```{{literalinclude}} {relative}", ":language: toml", "```")


def _help(path: tuple[str, ...]) -> list[str]:
    shown = CliRunner().invoke(cli.app, [*path, "--help"], env={"COLUMNS": str(_HELP_COLUMNS)}, prog_name="slpd")
    return ["```text", *shown.output.rstrip().splitlines(), "```"]


def _type(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType}:
        return _type(next(option for option in arguments if option is not type(None)))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    return {str: "text", int: "whole number", float: "number", bool: "`true`, `false`", Path: "path"}[hint]


def _default(setting: Setting) -> str:
    said = default_help(setting).removeprefix("Default: ").rstrip(".")
    return (
        "required"
        if said.startswith("Required")
        else {"on": "`true`", "off": "`false`", "": "-"}.get(said, f"`{said}`")
    )


GENERATED = {
    "commands": commands,
    "settings": settings,
    "recipes": shipped_recipes,
    "hardware": hardware.table,
    "ablation": ablation.tables,
    "encoders": encoders.table,
    "offline encoders": encoders.offline_table,
}
