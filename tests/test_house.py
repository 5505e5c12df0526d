"""Structural rules that no linter checks: small classes, few attributes, few packages, no import cycles."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import grimp
import pytest

import slpd_toolkit

PACKAGE = Path(slpd_toolkit.__file__).parent
MOST_LINES, MOST_ATTRIBUTES, MOST_ENTRIES = 150, 12, 20
RECORDS = frozenset({"TokenMeta", "SlideFeatures"})
"""Dataclasses whose fields are the attributes of a file format, which determines their number."""


def classes(tree: ast.AST) -> list[ast.ClassDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def lines(found: ast.ClassDef) -> int:
    return (found.end_lineno or found.lineno) - found.lineno + 1


def attributes(found: ast.ClassDef) -> set[str]:
    """Return the names that a class assigns to `self`, and its fields."""
    fields = {
        node.target.id
        for node in found.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and not ast.unparse(node.annotation).startswith("ClassVar")
    }
    assigned = {
        node.attr
        for node in ast.walk(found)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    return fields | assigned


def is_settings(path: Path) -> bool:
    """Whether the classes of a file are settings, whose size is determined by the options of a command."""
    return path.parent.name == "config" or path == PACKAGE / "api" / "settings.py"


def offenders(path: Path, text: str) -> list[str]:
    """Describe the classes of a file that break a rule."""
    said = []
    for found in classes(ast.parse(text)):
        if lines(found) > MOST_LINES and not is_settings(path):
            said.append(f"{path.name}: {found.name} has {lines(found)} lines, allowed: {MOST_LINES}")
        count = len(attributes(found))
        if count > MOST_ATTRIBUTES and not is_settings(path) and found.name not in RECORDS:
            said.append(f"{path.name}: {found.name} has {count} attributes, allowed: {MOST_ATTRIBUTES}")
    return said


def test_classes_are_small_and_have_few_attributes() -> None:
    found = [line for path in sorted(PACKAGE.rglob("*.py")) for line in offenders(path, path.read_text("utf-8"))]
    assert found == []


def test_the_rule_finds_what_breaks_it() -> None:
    fields = "\n".join(f"    field{i}: int" for i in range(7))
    assigned = "\n".join(f"        self.part{i}, self.other{i} = {i}, {i}" for i in range(3))
    text = f"class Big:\n    KIND: ClassVar[int] = 0\n{fields}\n    def __init__(self):\n{assigned}\n"
    path = PACKAGE / "store" / "big.py"
    assert offenders(path, text) == ["big.py: Big has 13 attributes, allowed: 12"]
    assert offenders(path, "class Long:\n" + "    pass\n" * 150) == ["big.py: Long has 151 lines, allowed: 150"]
    assert offenders(PACKAGE / "config" / "big.py", text) == []


def rooms() -> list[str]:
    return [
        path.stem
        for path in PACKAGE.iterdir()
        if path.name != "__init__.py" and (path.suffix == ".py" or (path / "__init__.py").exists())
    ]


def test_the_first_sheet_of_the_package_has_few_entries() -> None:
    assert len(rooms()) <= MOST_ENTRIES


@pytest.mark.parametrize("package", ["slpd_toolkit", "slpd_toolkit.mil"])
def test_rooms_do_not_import_each_other_in_a_circle(package: str) -> None:
    graph = grimp.build_graph("slpd_toolkit", cache_dir=None)
    for room in graph.find_children(package):
        graph.squash_module(room)
    children = graph.find_children(package)
    below = {
        room: {other for other in graph.find_modules_directly_imported_by(room) if other in children}
        for room in children
    }
    left = dict(below)
    while free := [room for room, others in left.items() if not others & left.keys()]:
        for room in free:
            del left[room]
    assert left == {}, "these rooms import each other"


def test_no_text_has_marks_of_an_unfinished_merge() -> None:
    repository = PACKAGE.parent
    folders = [repository / name for name in ("docs", "manifests", "stages", "benchmarks")]
    texts = [*repository.glob("*.*"), *(path for folder in folders for path in folder.rglob("*"))]
    texts = [path for path in texts if path.suffix in {".md", ".toml", ".csv"}]
    marked = [path for path in texts if re.search(r"^(<<<<<<<|>>>>>>>) ", path.read_text("utf-8"), re.MULTILINE)]
    assert texts
    assert marked == []
