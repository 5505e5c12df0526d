"""`--help` that fits 80 columns: options and commands in titled sections, without truncation."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

_PANEL = "rich_help_panel"  # typer's attribute of an option or command: the title of its section


class SectionedCommand(TyperCommand):
    """A command whose options are grouped in sections."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then options by section."""
        _write_parameters(self.get_params(ctx), ctx, formatter)


class SectionedGroup(TyperGroup):
    """A group whose commands are listed in sections, each with the full first paragraph of its help."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands before the options."""
        self.format_commands(ctx, formatter)
        _write_parameters(self.get_params(ctx), ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write commands by section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                text = " ".join((command.help or "").partition("\n\n")[0].split())
                sections.setdefault(_section(command, "Commands"), []).append((name, text))
        _write(sections, formatter)


def _write_parameters(parameters: list[Any], ctx: Any, formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in parameters:
        record = parameter.get_help_record(ctx)
        if record is not None:
            default = "Arguments" if parameter.param_type_name == "argument" else "Options"
            sections.setdefault(_section(parameter, default), []).append(record)
    _write(sections, formatter)


def _section(described: Any, default: str) -> str:
    title = getattr(described, _PANEL, None)
    return title if isinstance(title, str) else default


def _write(sections: dict[str, list[tuple[str, str]]], formatter: Any) -> None:
    for title, rows in sections.items():
        with formatter.section(title):
            formatter.write_dl(rows)
