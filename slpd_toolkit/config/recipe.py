"""From a recipe and flags to a configuration, and back to a recipe."""

import ast
import inspect
import os
import re
import tomllib
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from slpd_toolkit.core.errors import UsageError

Config = TypeVar("Config")

ABOUT = "about"
"""Table of a recipe that a run wrote: where it ran. Read as a recipe again, it is passed over."""


_SECTION = re.compile(r"    # -- (.+) --$")
_ATTRIBUTE = re.compile(r"    (\w+): ")


@cache
def option_help(config_class: type) -> dict[str, str]:
    """Read the docstring under each attribute of a dataclass, as one line: attribute -> help."""
    body = ast.parse(inspect.getsource(config_class).lstrip()).body[0]
    assert isinstance(body, ast.ClassDef)
    documented = {}
    for attribute, comment in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(attribute, ast.AnnAssign)
            and isinstance(attribute.target, ast.Name)
            and isinstance(comment, ast.Expr)
        ):
            documented[attribute.target.id] = " ".join(str(ast.literal_eval(comment.value)).split())
    return documented


@cache
def option_sections(config_class: type) -> dict[str, str]:
    """Read the `# -- title --` comments between a dataclass's attributes: attribute -> title, "" before the first."""
    title, sections = "", {}
    for line in inspect.getsource(config_class).splitlines():
        if heading := _SECTION.match(line):
            title = heading[1]
        elif attribute := _ATTRIBUTE.match(line):
            sections[attribute[1]] = title
    return {item.name: sections[item.name] for item in fields(config_class)}


def default_help(item: Field[Any]) -> str:
    """Say what an attribute is where nothing is given; empty where there is nothing to say, or only its help can."""
    if item.default is MISSING:
        return "Required, here or in the recipe."
    if isinstance(item.default, bool):
        return "Default: on." if item.default else "Default: off."
    if isinstance(item.default, tuple):
        return f"Default: {', '.join(map(str, item.default))}." if item.default else ""
    return f"Default: {item.default}." if isinstance(item.default, str | int | float) and item.default != "" else ""


def build(config_class: type[Config], flags: Mapping[str, object], recipe: Path | None) -> Config:
    """Make a stage's configuration with the precedence flag > recipe > default.

    Args:
        config_class: One of the dataclasses of this module.
        flags: Values given on the command line; None means not given.
        recipe: TOML file with the attribute names of `config_class` as keys.

    Raises:
        UsageError: An unknown key, a value of the wrong type, a value that is not allowed, or one that is missing.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    values = {**(read_recipe(config_class, recipe) if recipe else {}), **given}
    required = [item.name for item in fields(config_class) if item.default is MISSING]  # type: ignore[arg-type]
    missing = [name for name in required if name not in values]
    if missing:
        raise UsageError(f"Missing: {', '.join(missing)}.", hint="Give them on the command line or in the recipe.")
    return config_class(**values)


def read_recipe(config_class: type, recipe: Path) -> dict[str, Any]:
    """Read a recipe's values, typed as the attributes of `config_class`.

    Raises:
        UsageError: The file is missing or not TOML, or a key or a value's type is not one of the class; all at once.
    """
    path = find_recipe(recipe)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"Recipe {recipe}: cannot be read ({error}).", hint="It must be a TOML file.") from error
    types_by_name = get_type_hints(config_class)
    table.pop(ABOUT, None)
    problems, values = [], {}
    for key, value in table.items():
        if key not in types_by_name:
            near = get_close_matches(key, types_by_name, n=1)
            problems.append(f"unknown key `{key}`" + (f" (did you mean `{near[0]}`?)" if near else ""))
            continue
        try:
            values[key] = _typed(value, types_by_name[key])
        except ValueError as error:
            problems.append(f"`{key}` = {value!r}: {error}")
    if problems:
        raise UsageError(f"Recipe {recipe}: {'; '.join(problems)}.", hint=f"Known keys: {', '.join(types_by_name)}.")
    return values


def find_recipe(recipe: Path) -> Path:
    """Find a recipe: the path itself, else one that is shipped with the package (`pretrain/nsclc.toml`).

    Raises:
        UsageError: There is none; the message lists the shipped ones.
    """
    if recipe.is_file():
        return recipe
    shipped = shipped_folder("stages")
    name = recipe.relative_to("stages") if recipe.parts[:1] == ("stages",) else recipe
    if (shipped / name).is_file():
        return shipped / name
    known = ", ".join(sorted(f"stages/{path.relative_to(shipped).as_posix()}" for path in shipped.rglob("*.toml")))
    raise UsageError(f"Recipe {recipe}: no such file.", hint=f"Shipped recipes: {known}.")


def shipped_folder(name: str) -> Path:
    """Find `stages/` or `manifests/`: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    return package / name if (package / name).is_dir() else package.parent / name


def as_recipe(config: Any) -> dict[str, Any]:
    """Give every resolved value of a configuration as plain TOML / JSON types; None values are left out."""
    return {key: _plain(value) for key, value in asdict(config).items() if value is not None}


def _plain(value: Any) -> Any:
    """Give a value of a configuration as TOML and JSON know it."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, Path) else value


def _typed(value: object, wanted: Any) -> Any:
    """Check and convert one TOML value; raises ValueError with what is allowed."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin in {Union, types.UnionType}:
        return _typed(value, next(option for option in arguments if option is not type(None)))
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"allowed: {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError("allowed: a list")
        return tuple(_typed(item, arguments[0]) for item in value)
    if wanted is Path and isinstance(value, str):
        return Path(value)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise ValueError(f"allowed: {wanted.__name__}")
    return value


def typed(value: object, wanted: Any) -> Any:
    """Check and convert a setting that is given as a recipe would hold it: plain TOML types, paths as strings.

    Raises:
        ValueError: The type is wrong or the value is not one of the choices; the message lists what is allowed.
    """
    return _typed(value, wanted)
