"""Registries: the modules of a package, found by name. A new file in the package is a new entry.

Names and summaries are read from file names and docstrings, without importing anything, so that `--help` can list
entries whose modules need PyTorch.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slpd_toolkit.core.errors import UsageError

if TYPE_CHECKING:
    from types import ModuleType


@dataclass(frozen=True)
class Registry:
    """The public modules of `package`: `trans_mil.py` is the entry `trans-mil`; `_*.py` are not entries."""

    package: str
    """Dotted name of the package. Importing it must be cheap: its `__init__` holds a docstring only."""
    flag: str
    """Name of the setting in error messages, for example `--aggregator`."""

    def names(self) -> tuple[str, ...]:
        """Return the names of all entries, sorted."""
        return tuple(sorted(self._files()))

    def summary(self, name: str) -> str:
        """Return the first line of an entry's docstring, without importing it.

        Raises:
            UsageError: There is no such entry.
        """
        return self.description(name).partition("\n")[0]

    def description(self, name: str) -> str:
        """Return an entry's whole docstring, without importing it.

        Raises:
            UsageError: There is no such entry.
        """
        self.require(name)
        return ast.get_docstring(ast.parse(self._files()[name].read_text(encoding="utf-8"))) or ""

    def require(self, name: str, flag: str = "") -> None:
        """Check that an entry exists.

        Args:
            name: The entry.
            flag: The flag for the message, if it is not that of the registry.

        Raises:
            UsageError: There is no such entry; the message lists those that exist.
        """
        names = self.names()
        if name not in names:
            near = get_close_matches(name, names, n=1)
            raise UsageError(
                f"{flag or self.flag}: got {name}, allowed: {', '.join(names)}.",
                hint=f"Did you mean {near[0]}?" if near else "",
            )

    def load(self, name: str) -> ModuleType:
        """Import an entry's module.

        Raises:
            UsageError: There is no such entry; the message lists those that exist.
        """
        self.require(name)
        return import_module(f"{self.package}.{name.replace('-', '_')}")

    def constants(self, name: str) -> dict[str, tuple[Any, str]]:
        """Return the literal module constants of an entry, each with the docstring under it, without importing it.

        Raises:
            UsageError: There is no such entry.
        """
        self.require(name)
        body = ast.parse(self._files()[name].read_text(encoding="utf-8")).body
        found: dict[str, tuple[Any, str]] = {}
        for statement, after in zip(body, [*body[1:], None], strict=True):
            target = statement.targets[0] if isinstance(statement, ast.Assign) else None
            if isinstance(target, ast.Name) and isinstance(statement, ast.Assign):
                try:
                    value = ast.literal_eval(statement.value)
                    text = ast.literal_eval(after.value) if isinstance(after, ast.Expr) else ""
                except ValueError:
                    continue
                found[target.id] = (value, " ".join(str(text).split()))
        return found

    def _files(self) -> dict[str, Path]:
        folders = import_module(self.package).__path__
        files = (path for folder in folders for path in Path(folder).glob("*.py"))
        return {path.stem.replace("_", "-"): path for path in files if not path.stem.startswith("_")}
