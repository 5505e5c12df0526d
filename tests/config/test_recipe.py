from __future__ import annotations

import inspect
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal, get_origin

import pytest

from slpd_toolkit import config
from slpd_toolkit.config import recipe as recipes
from slpd_toolkit.config.embed import EmbedConfig
from slpd_toolkit.config.mil_eval import MilEvalConfig
from slpd_toolkit.config.pretrain import PretrainConfig
from slpd_toolkit.config.recipe import as_recipe, build, find_recipe, read_recipe, shipped_folder, stage_of
from slpd_toolkit.config.settings import settings_of
from slpd_toolkit.core.errors import UsageError
from tests.conftest import REPOSITORY

SHIPPED = sorted((REPOSITORY / "stages").rglob("*.toml"))


def stage_configs() -> dict[str, type]:
    """Return every configuration dataclass of the package, by module name."""
    found: dict[str, type] = {}
    for path in Path(config.__file__).parent.glob("*.py"):
        module = __import__(f"slpd_toolkit.config.{path.stem}", fromlist=["_"])
        for name, value in inspect.getmembers(module, inspect.isclass):
            if name.endswith("Config") and value.__module__ == module.__name__:
                found[path.stem] = value
    return found


@dataclass(frozen=True, kw_only=True)
class Example:
    """A configuration with a setting of every type."""

    path: Path
    """Needed."""
    count: int = 3
    """A number
    on two lines."""
    share: float = 0.5
    """A fraction."""
    name: str | None = None
    """Text."""
    kind: Literal["a", "b"] = "a"
    """One of two."""
    sizes: tuple[int, ...] = (1, 2)
    """Several."""
    on: bool = True
    """A switch."""


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_flag_wins_over_the_recipe_and_the_recipe_over_the_default(tmp_path: Path) -> None:
    recipe = written(tmp_path, 'path = "from/recipe"\ncount = 10\nshare = 0.25\n')
    flags = {"path": None, "count": 20, "share": None, "name": None, "on": False}
    assert build(Example, flags, recipe) == Example(path=Path("from/recipe"), count=20, share=0.25, on=False)
    assert build(Example, {"path": Path("x")}, None) == Example(path=Path("x"))


def test_a_flag_that_is_the_default_still_wins(tmp_path: Path) -> None:
    recipe = written(tmp_path, 'path = "x"\ncount = 10\non = false\n')
    assert build(Example, {"count": 3, "on": True}, recipe) == Example(path=Path("x"), count=3, on=True)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(UsageError, match=r"Missing: manifest, out\.") as caught:
        build(EmbedConfig, {"manifest": None, "out": None}, None)
    assert "recipe" in caught.value.hint


def test_values_get_the_attribute_s_type(tmp_path: Path) -> None:
    text = 'path = "p"\nshare = 1\nname = "n"\nkind = "b"\nsizes = [4, 5]\non = false'
    values = read_recipe(Example, written(tmp_path, text))
    assert values == {"path": Path("p"), "share": 1.0, "name": "n", "kind": "b", "sizes": (4, 5), "on": False}
    assert isinstance(values["share"], float)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cuont = 3", r"unknown key `cuont` \(did you mean `count`\?\)"),
        ("zzzzzz = 3", r"unknown key `zzzzzz`\."),
        ("[embed]\ncount = 3", "unknown key `embed`"),
        ("count = 3.5", "`count` = 3.5: allowed: int"),
        ('count = "3"', "`count` = '3': allowed: int"),
        ("count = true", "`count` = True: allowed: int"),
        ("share = true", "`share` = True: allowed: float"),
        ("name = 3", "`name` = 3: allowed: str"),
        ('kind = "c"', "`kind` = 'c': allowed: a, b"),
        ("on = 1", "`on` = 1: allowed: bool"),
        ("sizes = 4", "`sizes` = 4: allowed: a list"),
        ('sizes = [1, "2"]', r"`sizes` = \[1, '2'\]: allowed: int"),
        ("path = 5", "`path` = 5: allowed: Path"),
    ],
)
def test_an_unknown_key_or_a_wrong_type_is_told_with_what_is_known(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        read_recipe(Example, written(tmp_path, text))
    assert str(tmp_path / "recipe.toml") in caught.value.message
    assert caught.value.hint == "Known keys: path, count, share, name, kind, sizes, on."


def test_all_problems_of_a_recipe_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown key `x`; `count` = 'a': allowed: int; `on` = 2: allowed: bool\."):
        read_recipe(Example, written(tmp_path, 'x = 1\ncount = "a"\nshare = 2\non = 2'))


@pytest.mark.parametrize("content", [b"count 3", b"count = 3\ncount = 4", b"\xff\xfe", b'name = "x'])
def test_what_is_no_toml_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "recipe.toml").write_bytes(content)
    with pytest.raises(UsageError, match=r"Recipe .*recipe\.toml cannot be read"):
        read_recipe(Example, tmp_path / "recipe.toml")


@pytest.mark.parametrize("name", ["embed/hipt.toml", "stages/embed/hipt.toml"])
def test_a_shipped_recipe_is_found_by_its_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe(Path(name)) == REPOSITORY / "stages" / "embed" / "hipt.toml"
    written(tmp_path, "")
    assert find_recipe(Path("recipe.toml")) == Path("recipe.toml")


@pytest.mark.parametrize(
    ("name", "config_class", "found"),
    [
        ("small-cohort", PretrainConfig, "pretrain/small-cohort.toml"),
        ("small-cohort.toml", PretrainConfig, "pretrain/small-cohort.toml"),
        ("pretrain/small-cohort", PretrainConfig, "pretrain/small-cohort.toml"),
        ("survival", MilEvalConfig, "mil-eval/survival.toml"),
        ("stages/embed/uni", MilEvalConfig, "embed/uni.toml"),
    ],
)
def test_a_shipped_recipe_is_found_without_stage_and_suffix(name: str, config_class: type, found: str) -> None:
    assert find_recipe(Path(name), stage_of(config_class)) == REPOSITORY / "stages" / found


def test_a_recipe_of_another_stage_is_not_found_by_its_bare_name() -> None:
    with pytest.raises(UsageError, match="no such file"):
        find_recipe(Path("survival"), stage_of(PretrainConfig))


def test_brackets_nested_too_deeply_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read \(brackets are nested too deeply\)"):
        read_recipe(Example, written(tmp_path, f"count = {'[' * 5000}{']' * 5000}"))


def test_an_absent_recipe_lists_the_shipped_ones() -> None:
    with pytest.raises(UsageError, match=r"Recipe nope\.toml: no such file") as caught:
        find_recipe(Path("nope.toml"))
    assert "stages/embed/hipt.toml" in caught.value.hint


def test_recipes_inside_an_installed_package_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "slpd_toolkit"
    (package / "config").mkdir(parents=True)
    (tmp_path / "stages").mkdir()
    monkeypatch.setattr(recipes, "__file__", str(package / "config" / "recipe.py"))
    assert shipped_folder("stages") == tmp_path / "stages"
    (package / "stages").mkdir()
    assert shipped_folder("stages") == package / "stages"


def test_there_are_recipes_to_check() -> None:
    assert {path.parent.name for path in SHIPPED} == {"embed", "pretrain", "pretrain-slides", "mil-eval"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_shipped_recipe_makes_a_configuration_and_says_where_its_values_come_from(path: Path) -> None:
    config_class: Any = stage_configs()[path.parent.name.replace("-", "_")]
    flags: dict[str, Any] = {
        name: ("x",) if get_origin(setting.type) is tuple else Path("x")
        for name, setting in settings_of(config_class).items()
        if setting.default is MISSING
    }
    assert read_recipe(config_class, path)
    build(config_class, flags, path)
    assert path.read_text(encoding="utf-8").startswith("#")


@pytest.mark.parametrize("config_class", stage_configs().values(), ids=lambda value: value.__name__)
def test_every_setting_is_described_for_help_and_no_name_occurs_twice(config_class: type) -> None:
    known = settings_of(config_class)
    assert all(setting.help.endswith(".") and "\n" not in setting.help for setting in known.values())
    assert inspect.getdoc(config_class)


def test_a_configuration_written_as_a_recipe_gives_itself(tmp_path: Path) -> None:
    config = EmbedConfig(manifest=Path("m.csv"), out=Path("cache"), mpp=0.75, precision="bf16", qc=False)
    values = as_recipe(config)
    assert values["manifest"] == "m.csv"
    assert "weights" not in values
    text = "".join(
        f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}\n" for name, value in values.items()
    )
    assert build(EmbedConfig, {}, written(tmp_path, text)) == config
