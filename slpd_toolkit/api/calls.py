"""Running a command from Python: keyword settings in, exceptions instead of exit codes."""

from __future__ import annotations

import inspect
import os
from dataclasses import MISSING
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

from slpd_toolkit.config import recipe as recipes
from slpd_toolkit.config.settings import settings_of
from slpd_toolkit.core import console
from slpd_toolkit.core.errors import SlpdError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Config = TypeVar("Config")
Function = TypeVar("Function", bound="Callable[..., Any]")

ARGUMENTS: dict[type, tuple[str, ...]] = {}
"""Configuration class of each function -> names of the settings that are its positional arguments."""

SETTINGS = "Settings:"
"""Heading of the list of settings at the end of a docstring."""

_FIRST_SIGNAL = 128
_SIGINT = 2


def resolve(config_class: type[Config], given: Mapping[str, object]) -> Config:
    """Build and check a command's configuration from keyword settings.

    Args:
        config_class: Configuration of the command.
        given: Settings by name, and optionally `recipe`; None counts as not given. Paths may be strings or path-like
            objects, lists may be any iterable, and a single string counts as a list of one.

    Raises:
        UsageError: A setting is unknown, missing, of the wrong type, or has a value that is not allowed.
    """
    known = settings_of(config_class)
    problems, values = [], {}
    recipe = given.get("recipe")
    for name, value in given.items():
        if name == "recipe" or value is None:
            continue
        if name not in known:
            near = get_close_matches(name, known, n=1)
            problems.append(f"unknown setting `{name}`" + (f" (did you mean `{near[0]}`?)" if near else ""))
            continue
        try:
            values[name] = recipes.typed(_plain(value, known[name].type), known[name].type)
        except ValueError as error:
            problems.append(f"`{name}` = {value!r}: {error}")
    if problems:
        raise UsageError(f"{'; '.join(problems)}.", hint=f"Settings: {', '.join(known)}.")
    return recipes.build(config_class, values, None if recipe is None else Path(str(recipe)))


def run(module: str, config: object) -> int:
    """Run a command without printing its result tables; progress, notes and warnings go to standard error.

    Returns:
        The command's exit code: 0, or 1 if some slides failed.

    Raises:
        SlpdError: Whatever the command raises.
        KeyboardInterrupt: The command was interrupted (Ctrl-C) and has saved its state.
        SystemExit: The command was stopped by another signal and has saved its state.
    """
    with console.without_results():
        code = int(import_module(f"slpd_toolkit.commands.{module}").run(config))
    if code == _FIRST_SIGNAL + _SIGINT:
        raise KeyboardInterrupt
    if code > _FIRST_SIGNAL:
        raise SystemExit(code)
    return code


def with_settings_of(config_class: type, *arguments: str) -> Callable[[Function], Function]:
    """Show a command's settings, with their types and defaults, in the signature and docstring of a function.

    Args:
        config_class: Configuration of the command.
        arguments: The settings that are the function's positional arguments, in order.
    """
    ARGUMENTS[config_class] = arguments

    def describe(function: Function) -> Function:
        known = settings_of(config_class)
        parameters = [
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD if name in arguments else inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if setting.default is MISSING else setting.default,
                annotation=setting.type,
            )
            for name, setting in known.items()
        ]
        places = {name: place for place, name in enumerate(arguments)}
        parameters.sort(key=lambda parameter: places.get(parameter.name, len(places)))
        parameters.append(inspect.Parameter("recipe", inspect.Parameter.KEYWORD_ONLY, default=None))
        returned = inspect.signature(function).return_annotation
        function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # what help() and editors show
            parameters, return_annotation=returned
        )
        lines = [f"    {setting.name}: {setting.help}" for setting in known.values()]
        function.__doc__ = f"{inspect.getdoc(function)}\n\n{SETTINGS}\n" + "\n".join(lines)
        return function

    return describe


def _plain(value: Any, wanted: Any) -> Any:
    """Convert paths to strings, and iterables to lists, as a recipe would hold them."""
    if _is_list(wanted):
        return [_plain(item, str) for item in ([value] if isinstance(value, str | os.PathLike) else value)]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _is_list(wanted: Any) -> bool:
    return get_origin(wanted) is tuple or any(get_origin(option) is tuple for option in get_args(wanted))


def require_success(code: int, what: str) -> None:
    """Raise an error unless a command finished all of its work.

    Raises:
        SlpdError: `code` is not 0.
    """
    if code:
        raise SlpdError(
            f"{what} ended with exit code {code}.", hint="See the messages on standard error for the reason."
        )
