from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from slpd_toolkit.cli import app as cli
from slpd_toolkit.config.embed import EmbedConfig
from slpd_toolkit.config.pretrain import PretrainConfig
from slpd_toolkit.config.settings import default_help, settings_of

ROOT: Any = typer.main.get_command(cli.app)


def leaves(group: Any = ROOT, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Return every command that can be run, with the words that call it."""
    found: list[tuple[tuple[str, ...], Any]] = []
    for name, command in group.commands.items():
        found += leaves(command, (*path, name)) if hasattr(command, "commands") else [((*path, name), command)]
    return found


LEAVES = leaves()
NAMES = [" ".join(path) for path, _ in LEAVES]


def shown(*arguments: str) -> str:
    done = CliRunner().invoke(cli.app, [*arguments, "--help"], env={"COLUMNS": "80"})
    assert done.exit_code == 0
    return done.output


def words(text: str) -> str:
    """Return a text without line breaks; words broken at a hyphen are rejoined."""
    return " ".join(text.split()).replace("- ", "-")


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=NAMES)
def test_help_at_80_columns_cuts_nothing_off(path: tuple[str, ...], command: Any) -> None:
    text = shown(*path)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    assert not re.search(r"[^>\]]\.\.\.", text)  # <path>... may be repeated
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        assert words(parameter.help) in words(text)
        if parameter.param_type_name == "option":
            assert any(line.strip().startswith(parameter.opts[0]) for line in text.splitlines())


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=NAMES)
def test_every_command_and_option_says_what_it_is(path: tuple[str, ...], command: Any) -> None:
    assert command.help.strip()
    assert words(command.help.partition("\n\n")[0]) in words(shown(*path[:-1]))
    for parameter in command.params:
        assert getattr(parameter, "hidden", False) or parameter.help[-1] in ".?)", parameter.help


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=NAMES)
def test_the_example_in_a_commands_help_is_a_command(path: tuple[str, ...], command: Any) -> None:
    examples = [line.strip() for line in command.help.splitlines() if line.strip().startswith("slpd ")]
    for example in examples:
        called, *arguments = shlex.split(example)[1:]
        assert called == path[0]
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {argument for argument in arguments if argument.startswith("--")} <= options


def test_options_stand_in_sections_in_their_order() -> None:
    titles = [line[:-1] for line in shown("pretrain").splitlines() if line.endswith(":") and line[0].isalpha()]
    known = settings_of(PretrainConfig)
    found = list(dict.fromkeys(setting.section for setting in known.values()))
    assert titles == ["Arguments", "Options", *found[1:]]
    assert found[:2] == ["", "Slides"]
    assert tuple(known[name].section for name in ("out", "epochs", "local_side")) == ("", "Length and batches", "Views")


def test_commands_stand_in_sections_stages_first() -> None:
    text = shown()
    places = [text.index(f"\n{title}:\n") for title in (cli.STAGES, cli.LOOK, cli.EXCHANGE, "Options")]
    assert places == sorted(places)
    assert places[0] < text.index("\n  embed ") < text.index("\n  pretrain ") < places[1] < text.index("\n  inspect ")


def test_defaults_are_said() -> None:
    said = {name: default_help(setting) for name, setting in settings_of(EmbedConfig).items()}
    assert said["out"] == "Required, here or in the recipe."
    assert (said["seed"], said["encoder"]) == ("Default: 0.", "Default: efficientnet-lite0.")
    assert (said["qc"], said["overwrite"], said["weights"]) == ("Default: on.", "Default: off.", "")
