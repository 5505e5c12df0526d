"""The `slpd` command: recipe + flags -> configuration -> stage.run(); errors become a message and an exit code.

Exit codes: 0, success; 1, some slides failed (listed in failures.csv) or the command itself failed; 2, nothing was
started because an option, a recipe or the manifest is invalid. torch is imported only when a stage starts.
"""

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from slpd_toolkit.cli.sections import SectionedCommand, SectionedGroup
from slpd_toolkit.config import recipe as recipes
from slpd_toolkit.config.checks import flag
from slpd_toolkit.config.demo import DemoConfig
from slpd_toolkit.config.embed import EmbedConfig
from slpd_toolkit.config.encoders import EncodersConfig
from slpd_toolkit.config.export import ExportConfig
from slpd_toolkit.config.from_clam import FromClamConfig
from slpd_toolkit.config.heatmap import HeatmapConfig
from slpd_toolkit.config.import_features import ImportConfig
from slpd_toolkit.config.inspect import InspectConfig
from slpd_toolkit.config.mil_eval import MilEvalConfig
from slpd_toolkit.config.old_keys import harmless_keys
from slpd_toolkit.config.predict import PredictConfig
from slpd_toolkit.config.pretrain import PretrainConfig
from slpd_toolkit.config.pretrain_slides import PretrainSlidesConfig
from slpd_toolkit.config.prototypes import PrototypesConfig
from slpd_toolkit.config.represent import RepresentConfig
from slpd_toolkit.config.search import SearchConfig
from slpd_toolkit.config.settings import default_help, settings_of
from slpd_toolkit.config.study import PLANS, StudyConfig
from slpd_toolkit.config.view import ViewConfig
from slpd_toolkit.core import console
from slpd_toolkit.core.errors import SlpdError, UsageError
from slpd_toolkit.core.version import __version__
from slpd_toolkit.foreign.format import FORMATS

app = typer.Typer(
    name="slpd",
    cls=SectionedGroup,
    no_args_is_help=True,
    rich_markup_mode=None,  # rich tables truncate names and sentences at 80 columns
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Slide-level representations of whole-slide images: embed, pretrain, evaluate.",
)

FIRST, STAGES, LOOK, EXCHANGE = "Getting started", "Stages", "Inspect results", "Exchange with other tools"
"""Sections of `slpd --help`."""

CONFIGS: dict[str, type] = {}
"""The configuration class of each command; the reference in docs/ is generated from it."""

manifests = typer.Typer(
    name="manifest",
    cls=SectionedGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Create manifests (cohort CSVs) from the tables of other tools.",
)
app.add_typer(manifests, rich_help_panel=EXCHANGE)


class _Importers(SectionedGroup):
    """One command per format; a first argument that is not a format is a folder, passed to `auto`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert `auto` before a folder or an option."""
        if args and args[0] not in {*self.commands, "-h", "--help"}:
            args = ["auto", *args]
            word = args[1]
            if not word.startswith("-") and len(args) > 2 and not args[2].startswith("-") and not Path(word).exists():
                _guarded(lambda: _refuse_format(word))  # meant as a format
        return super().parse_args(ctx, args)


class _StudyCommand(SectionedCommand):
    """`--plan` may be given without a value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the default value of `--plan`."""
        for place, word in enumerate(args):
            if word == "--plan" and (place + 1 == len(args) or args[place + 1] not in PLANS):
                args = [*args[:place], f"--plan={PLANS[0]}", *args[place + 1 :]]
        return super().parse_args(ctx, args)


def _refuse_format(name: str) -> None:
    """Raise a UsageError that lists the formats."""
    FORMATS.require(name)
    raise UsageError(f"slpd import: {name} is not a folder.")


importers = typer.Typer(
    name="import",
    cls=_Importers,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Convert patch features extracted by another tool to a token cache. `slpd import DIR --out cache/` detects "
    "the tool; name the tool to require it: `slpd import clam DIR --out cache/`.",
)
app.add_typer(importers, rich_help_panel=EXCHANGE)

Recipe = Annotated[
    Path | None,
    typer.Option("--recipe", metavar="TOML", help="TOML file with values for the options below. Flags override it."),
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
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def add_stage(
    name: str,
    config_class: type,
    module: str,
    *,
    argument: str,
    section: str = STAGES,
    group: typer.Typer = app,
    doc: str = "",
    parser: type[SectionedCommand] = SectionedCommand,
    **fixed: object,
) -> None:
    """Register a stage as a command whose options are the attributes of its configuration dataclass.

    Every option defaults to None on the command line, so that a recipe's value is overridden only by a flag that was
    given.

    Args:
        name: The command.
        config_class: Dataclass of `slpd_toolkit.config`.
        module: Module with `run(config) -> int`, imported only when the command runs.
        argument: Names of the attributes that are positional arguments, separated by spaces; empty for none.
        section: Section of `--help` that lists the command.
        group: Command group that it belongs to.
        doc: Start of its help text; the docstring of the configuration if empty.
        parser: Class of the command.
        fixed: Attributes determined by the command's name, which are not options.
    """

    def command(recipe: Path | None = None, **flags: object) -> None:
        def work() -> int:
            for key, old in harmless_keys(config_class).items():
                if flags.pop(key, None) is not None:
                    console.warn(f"{_flag(key, str)} is not used. {old.instead}")
            given = {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()}
            # An invalid flag is reported before torch is imported.
            resolved: Any = recipes.build(config_class, given | fixed, recipe)
            return int(import_module(module).run(resolved))

        _guarded(work)

    command.__doc__ = doc or f"{inspect.getdoc(config_class)}"
    command.__signature__ = _signature(config_class, argument.split(), set(fixed))  # type: ignore[attr-defined]
    group.command(name, cls=parser, rich_help_panel=section)(command)
    CONFIGS[name if group is app else f"{group.info.name} {name}"] = config_class


def _signature(config_class: type, arguments: list[str], without: set[str]) -> inspect.Signature:
    parameters = [inspect.Parameter("recipe", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Recipe)]
    for name, setting in settings_of(config_class).items():
        if name in without:
            continue
        kind = _option_type(setting.type)
        text = f"{setting.help} {default_help(setting)}".rstrip()
        meta = (
            typer.Argument(help=text, show_default=False)
            if name in arguments
            else typer.Option(
                _flag(name, kind),
                help=text,
                show_default=False,
                metavar=f"<{get_args(kind)[0].__name__.lower()}>..." if get_origin(kind) is list else None,
                rich_help_panel=setting.section or None,
            )
        )
        parameters.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, meta]
            )
        )
    parameters += [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[str | None, typer.Option(_flag(name, str), hidden=True)],
        )
        for name in harmless_keys(config_class)
    ]
    places = {name: place for place, name in enumerate(arguments)}
    parameters.sort(key=lambda parameter: places.get(parameter.name, len(places)))
    return inspect.Signature(parameters)


def _option_type(hint: Any) -> Any:
    """Strip `| None`, and convert tuples (repeatable options) to the list type that typer supports."""
    if type(None) in get_args(hint):
        hint = next(option for option in get_args(hint) if option is not type(None))
    return list[get_args(hint)[0]] if get_origin(hint) is tuple else hint  # type: ignore[misc]


def _flag(name: str, kind: Any) -> str:
    dashed = flag(name).removeprefix("--")
    return f"--{dashed}/--no-{dashed}" if kind is bool else f"--{dashed}"


def _guarded(work: Callable[[], int | None]) -> None:
    """Run `work` and exit with its exit code; errors that a user can cause are printed as messages."""
    try:
        code = work() or 0
    except SlpdError as error:
        console.error(error.message, error.hint)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        console.note("Interrupted; completed work is kept. Run the same command again to resume.")
        raise typer.Exit(130) from None
    except BrokenPipeError:
        sys.stderr.close()  # the reader of the output (`| head`) has exited
        raise typer.Exit(1) from None
    except OSError as error:
        console.error(f"{error}.", "Check the path, its permissions, free space and quota.")
        raise typer.Exit(1) from None
    raise typer.Exit(code)


add_stage("demo", DemoConfig, "slpd_toolkit.commands.demo", argument="", section=FIRST)
add_stage(
    "study",
    StudyConfig,
    "slpd_toolkit.commands.study",
    argument="manifest",
    section=FIRST,
    parser=_StudyCommand,
)
add_stage("embed", EmbedConfig, "slpd_toolkit.commands.embed", argument="manifest")
add_stage("pretrain", PretrainConfig, "slpd_toolkit.commands.pretrain", argument="cache")
add_stage("pretrain-slides", PretrainSlidesConfig, "slpd_toolkit.commands.pretrain_slides", argument="model")
add_stage("mil-eval", MilEvalConfig, "slpd_toolkit.commands.mil_eval", argument="cache")
add_stage("represent", RepresentConfig, "slpd_toolkit.commands.represent", argument="model")
add_stage("predict", PredictConfig, "slpd_toolkit.commands.predict", argument="bundle manifest")
add_stage("encoders", EncodersConfig, "slpd_toolkit.commands.encoders", argument="name", section=LOOK)
add_stage("inspect", InspectConfig, "slpd_toolkit.commands.inspect", argument="path", section=LOOK)
add_stage("prototypes", PrototypesConfig, "slpd_toolkit.commands.prototypes", argument="run", section=LOOK)
add_stage("search", SearchConfig, "slpd_toolkit.commands.search", argument="source query", section=LOOK)
add_stage("view", ViewConfig, "slpd_toolkit.commands.view", argument="folder", section=LOOK)
add_stage("export", ExportConfig, "slpd_toolkit.commands.export", argument="source", section=EXCHANGE)
add_stage(
    "from-clam",
    FromClamConfig,
    "slpd_toolkit.commands.from_clam",
    argument="labels",
    section="Commands",
    group=manifests,
)
add_stage("heatmap", HeatmapConfig, "slpd_toolkit.commands.heatmap", argument="scores", section=LOOK)
_FORMATS = {"auto": "Detect the format from the content of the files, and import them."}
_FORMATS |= {name: FORMATS.description(name) for name in FORMATS.names()}
for _tool, _doc in _FORMATS.items():
    add_stage(
        _tool,
        ImportConfig,
        "slpd_toolkit.commands.import_features",
        argument="source",
        section="Commands",
        group=importers,
        doc=_doc,
        tool=_tool,
    )
