"""Build a configuration from a recipe and flags, and write it as a recipe."""

import os
import re
import tomllib
import types
from collections.abc import Mapping
from dataclasses import MISSING
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from slpd_toolkit.config.auto_recipe import CHOSEN, IF_SMALL, SIZES, CohortSize, choose_settings
from slpd_toolkit.config.old_keys import old_key, without_old_keys
from slpd_toolkit.config.settings import Setting, assemble, flatten, settings_of
from slpd_toolkit.core.errors import UsageError

Config = TypeVar("Config")

RECIPE = "recipe.toml"
"""Name of the recipe that a run or an evaluation writes into its folder."""
ABOUT = "about"
"""Table in recipes written by a run that describes its environment; ignored when the recipe is read."""


_WORD = re.compile(r"[A-Z][a-z]*")


def build(config_class: type[Config], flags: Mapping[str, object], recipe: Path | None = None) -> Config:
    """Build a command's configuration with the precedence flag > recipe > default.

    Args:
        config_class: One of the configuration dataclasses.
        flags: Values by name of setting, as given on the command line or in Python; None means not given.
        recipe: TOML file whose keys are names of settings.

    Raises:
        UsageError: A name is unknown, a required value is missing, or a value has the wrong type or is not allowed.
    """
    known = settings_of(config_class)
    given = {name: value for name, value in flags.items() if value is not None}
    problems = [_unknown(config_class, name, value, known) for name, value in given.items() if name not in known]
    if problems:
        raise UsageError(f"Settings: {'; '.join(problems)}.", hint=f"Known settings: {', '.join(known)}.")
    values = {**(read_recipe(config_class, recipe) if recipe else {}), **given}
    if "auto" in known:
        values["auto"] = _still_open(values, recipe)
        values = {**_until_chosen(values, known), **values}
    missing = [name for name, setting in known.items() if setting.default is MISSING and name not in values]
    if missing:
        raise UsageError(f"Missing: {', '.join(missing)}.", hint="Set them on the command line or in the recipe.")
    return assemble(config_class, values)


def _still_open(values: Mapping[str, Any], recipe: Path | None) -> tuple[str, ...]:
    """Return the settings of `PretrainConfig.auto` that neither the recipe nor a flag gives."""
    named = values.get("auto", ())
    if recipe is None and "auto" not in values and not values.keys() & set(SIZES):
        named = (IF_SMALL, *CHOSEN)
    return tuple(name for name in named if name not in values)


def _until_chosen(values: Mapping[str, Any], known: Mapping[str, Setting]) -> dict[str, Any]:
    """Return a value for each setting of `auto` until the cohort is known, so that defaults are not checked.

    They are those of a cohort for which everything that is allowed for some cohort is allowed.
    """
    auto = values["auto"]
    given = {name: values.get(name, setting.default) for name, setting in known.items() if name not in auto}
    counts = {name: max(1, given[name]) for name in ("epochs", "batch_size", "accumulate") if name in given}
    grid = max(16, *(given.get(name, 1) for name in ("global_side", "local_side")))
    choices = choose_settings(CohortSize([100] * 40, grid, given=given | counts))
    return {name: choices[name].value for name in auto if name in choices}


def read_recipe(config_class: type, recipe: Path) -> dict[str, Any]:
    """Read the values of a recipe and convert them to the types of the settings of `config_class`.

    Keys of earlier versions are ignored if their value is equivalent to the current behavior.

    Raises:
        UsageError: The file is missing or not TOML, or keys or value types are invalid; reports all problems at once.
    """
    path = find_recipe(recipe, stage_of(config_class))
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"Recipe {recipe} cannot be read ({error}).", hint="It must be a TOML file.") from error
    except RecursionError:  # its traceback has a thousand lines
        raise UsageError(
            f"Recipe {recipe} cannot be read (brackets are nested too deeply).",
            hint="Values of a recipe are numbers, texts, true or false, and lists of them.",
        ) from None
    known = settings_of(config_class)
    table.pop(ABOUT, None)
    problems, values = [], {}
    for key, value in without_old_keys(config_class, table).items():
        if key not in known:
            problems.append(_unknown(config_class, key, value, known))
            continue
        try:
            values[key] = _typed(value, known[key].type)
        except ValueError as error:
            problems.append(f"`{key}` = {value!r}: {error}")
    if problems:
        raise UsageError(f"Recipe {recipe}: {'; '.join(problems)}.", hint=f"Known keys: {', '.join(known)}.")
    return values


def _unknown(config_class: type, key: str, value: object, known: Mapping[str, Setting]) -> str:
    """Describe a key that is not a setting, and what to use instead if that is known."""
    old = old_key(config_class, key)
    if old is not None:
        return f"`{key}` = {value!r}: no longer a setting. {old.instead}".rstrip(".")
    near = get_close_matches(key, known, n=1)
    return f"unknown key `{key}`" + (f" (did you mean `{near[0]}`?)" if near else "")


def find_recipe(recipe: Path, stage: str = "") -> Path:
    """Find a recipe: the path itself, else one that is shipped with the package.

    Args:
        recipe: A file, or the name of a shipped recipe: `pretrain/nsclc.toml`, or `nsclc` for the command's own stage.
        stage: Folder of the command's shipped recipes: `pretrain`.

    Raises:
        UsageError: The recipe does not exist; the message lists the shipped recipes.
    """
    if recipe.is_file():
        return recipe
    shipped = shipped_folder("stages")
    name = recipe.relative_to("stages") if recipe.parts[:1] == ("stages",) else recipe
    for place in (shipped / name, shipped / stage / name):
        for path in (place, place.with_name(f"{place.name}.toml")):
            if path.is_file():
                return path
    known = ", ".join(sorted(f"stages/{path.relative_to(shipped).as_posix()}" for path in shipped.rglob("*.toml")))
    raise UsageError(f"Recipe {recipe}: no such file.", hint=f"Shipped recipes: {known}.")


def stage_of(config_class: type) -> str:
    """Return the folder of a command's shipped recipes: `mil-eval` for `MilEvalConfig`."""
    return "-".join(_WORD.findall(config_class.__name__.removesuffix("Config"))).lower()


def shipped_folder(name: str) -> Path:
    """Find `stages/` or `manifests/`: inside the installed package, or next to it in a checkout."""
    package = Path(__file__).parents[1]
    return package / name if (package / name).is_dir() else package.parent / name


def as_recipe(config: Any) -> dict[str, Any]:
    """Return every resolved value of a configuration as plain TOML / JSON types; None values are left out."""
    return {key: _plain(value) for key, value in flatten(config).items() if value is not None}


def _plain(value: Any) -> Any:
    """Convert a value of a configuration to a type of TOML and JSON."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, Path) else value


def _typed(value: object, wanted: Any) -> Any:
    """Check and convert one TOML value; raise ValueError with the allowed values if it is invalid."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin in {Union, types.UnionType}:
        return _typed(value, next(option for option in arguments if option is not type(None)))
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"allowed: {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if isinstance(value, str) and arguments[0] is str:
            value = [value]
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
    """Check and convert a setting given in plain TOML types, with paths as strings.

    Raises:
        ValueError: The type is wrong or the value is not one of the choices; the message lists the allowed values.
    """
    return _typed(value, wanted)
