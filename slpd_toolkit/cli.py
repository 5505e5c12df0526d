"""The `slpd` command: recipe + flags -> configuration -> stage.run(); errors become a message and an exit code.

Exit codes: 0 all done; 1 done, but some slides failed (failures.csv lists them) or the work itself failed; 2 nothing
was started because the command, recipe or manifest is wrong. torch is imported only when a stage starts.
"""

import inspect
import sys
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from slpd_toolkit import __version__, console
from slpd_toolkit.config import recipe as recipes
from slpd_toolkit.config.embed import EmbedConfig
from slpd_toolkit.config.export import ExportConfig
from slpd_toolkit.config.from_clam import FromClamConfig
from slpd_toolkit.config.mil_eval import MilEvalConfig
from slpd_toolkit.config.pretrain import PretrainConfig
from slpd_toolkit.config.prototypes import PrototypesConfig
from slpd_toolkit.errors import SlpdError

app = typer.Typer(
    name="slpd",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Slide-level representations of whole-slide images: embed, pretrain, evaluate.",
)

manifests = typer.Typer(no_args_is_help=True, help="Make cohort CSVs from the tables of other tools.")
app.add_typer(manifests, name="manifest")

Recipe = Annotated[
    Path | None, typer.Option("--recipe", metavar="TOML", help="Values for any option below; flags win over it.")
]


def main() -> None:
    """Run the `slpd` command."""
    app()


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer's signature of a callback
    if wanted:
        typer.echo(f"slpd_toolkit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command("inspect")
def _inspect(
    path: Annotated[Path, typer.Argument(help="A token file (.h5) or a cache folder.", show_default=False)],
) -> None:
    """Say what is in a token file or a token cache, in words and units."""
    _guarded(lambda: import_module("slpd_toolkit.inspection").run(path))


def add_stage(name: str, config_class: type, module: str, *, argument: str, group: typer.Typer = app) -> None:
    """Register a stage as a command whose options are the attributes of its configuration dataclass.

    Every option defaults to None on the command line, so that a recipe's value is overridden only by a flag that was
    given.

    Args:
        name: The command.
        config_class: Dataclass of `slpd_toolkit.config`.
        module: Module with `run(config) -> int`, imported only when the command runs.
        argument: The attribute that is positional.
        group: The command that it belongs to.
    """

    def command(recipe: Path | None = None, **flags: object) -> None:
        def work() -> int:
            given = {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()}
            resolved: Any = recipes.build(config_class, given, recipe)  # a wrong flag is told before torch is imported
            return int(import_module(module).run(resolved))

        _guarded(work)

    command.__doc__ = f"{inspect.getdoc(config_class)}"
    command.__signature__ = _signature(config_class, argument)  # type: ignore[attr-defined]
    group.command(name)(command)


def _signature(config_class: type, argument: str) -> inspect.Signature:
    hints, described = get_type_hints(config_class), recipes.option_help(config_class)
    parameters = [inspect.Parameter("recipe", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Recipe)]
    for item in fields(config_class):
        kind = _option_type(hints[item.name])
        shown = f" Default: {item.default}." if item.default and isinstance(item.default, str | int | float) else ""
        text = described[item.name] + shown
        meta = (
            typer.Argument(help=text, show_default=False)
            if item.name == argument
            else typer.Option(_flag(item.name, kind), help=text, show_default=False)
        )
        parameters.append(
            inspect.Parameter(
                item.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, meta]
            )
        )
    parameters.sort(key=lambda parameter: parameter.name != argument)
    return inspect.Signature(parameters)


def _option_type(hint: Any) -> Any:
    """Strip `| None`, and give repeatable options (tuples) the list type that typer knows."""
    if type(None) in get_args(hint):
        hint = next(option for option in get_args(hint) if option is not type(None))
    return list[get_args(hint)[0]] if get_origin(hint) is tuple else hint  # type: ignore[misc]


def _flag(name: str, kind: Any) -> str:
    dashed = name.replace("_", "-")
    return f"--{dashed}/--no-{dashed}" if kind is bool else f"--{dashed}"


def _guarded(work: Callable[[], int | None]) -> None:
    """Run `work`; a user's error becomes a message, and everything an exit code."""
    try:
        code = work() or 0
    except SlpdError as error:
        console.error(error.message, error.hint)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        console.note("Interrupted; the work done so far is kept. Run the same command again to go on.")
        raise typer.Exit(130) from None
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output (`| head`) has left; nothing more can be said
        raise typer.Exit(1) from None
    except OSError as error:
        console.error(f"{error}.", "Check the path, its permissions, free space and quota.")
        raise typer.Exit(1) from None
    raise typer.Exit(code)


add_stage("embed", EmbedConfig, "slpd_toolkit.embed", argument="manifest")
add_stage("pretrain", PretrainConfig, "slpd_toolkit.pretrain", argument="cache")
add_stage("prototypes", PrototypesConfig, "slpd_toolkit.prototypes", argument="run")
add_stage("export", ExportConfig, "slpd_toolkit.export", argument="source")
add_stage("mil-eval", MilEvalConfig, "slpd_toolkit.mil_eval", argument="cache")
add_stage("from-clam", FromClamConfig, "slpd_toolkit.from_clam", argument="labels", group=manifests)
