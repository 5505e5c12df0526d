"""Finds what a folder contains: token caches, runs, evaluations, predictions and reports."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slpd_toolkit.core.errors import CacheError, UsageError
from slpd_toolkit.core.hdf5_reader import Hdf5Error, describe_hdf5
from slpd_toolkit.models.region_vit import REGION_VIT
from slpd_toolkit.report.evaluation_folder import METRICS, PREDICTIONS
from slpd_toolkit.report.scores import FILENAME as SCORES
from slpd_toolkit.store.schema import SCHEMA, SUFFIX
from slpd_toolkit.store.token_file import token_paths
from slpd_toolkit.training.run_folder import PROTOTYPES

if TYPE_CHECKING:
    from pathlib import Path

_DEPTH = 4
_PROBED = 8
_OTHER_HDF5 = frozenset({PROTOTYPES, SCORES})
_SKIPPED = frozenset({"qc", "figures", "region_embeddings", "model", "pages", "slides", "tensorboard"})
_REPORTS = ("index.html", "report.html", "qc/index.html", "pages/index.html")


@dataclass(frozen=True)
class Parts:
    """What was found below a folder. Paths are sorted."""

    root: Path
    caches: tuple[Path, ...] = ()
    runs: tuple[Path, ...] = ()
    evaluations: tuple[Path, ...] = ()
    """Folders of `slpd mil-eval` and `slpd predict`."""
    reports: tuple[Path, ...] = ()
    """HTML pages."""

    def name_of(self, path: Path) -> str:
        """Return a short name: the path relative to the root."""
        name = path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name
        return self.root.name if name == "." else name


def find_parts(root: Path) -> Parts:
    """Search a folder and its subfolders, to a depth of four; links to folders outside are not followed.

    Raises:
        UsageError: The folder does not exist, or contains nothing that can be shown.
    """
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder.", hint="Pass the folder of a token cache, run or evaluation.")
    root = root.resolve()
    found: dict[str, list[Path]] = {"caches": [], "runs": [], "evaluations": [], "reports": []}
    for folder in _folders(root):
        names = {path.name for path in folder.iterdir()}
        if names & {REGION_VIT, PROTOTYPES}:
            found["runs"].append(folder)
        if names & {PREDICTIONS, SCORES, METRICS} and not names & {REGION_VIT}:
            found["evaluations"].append(folder)
        if is_cache(folder, names):
            found["caches"].append(folder)
        found["reports"] += [folder / name for name in _REPORTS if (folder / name).is_file()]
    if not (found["caches"] or found["runs"] or found["evaluations"]):
        raise UsageError(
            f"{root} contains no token cache, run or evaluation.",
            hint="Pass a folder written by `slpd embed`, `import`, `pretrain`, `mil-eval`, `predict`, `study` or "
            "`demo`.",
        )
    return Parts(root, **{kind: tuple(paths) for kind, paths in found.items()})


def is_cache(folder: Path, names: set[str]) -> bool:
    """Whether a folder has token files, of which some may be damaged.

    Args:
        folder: The folder.
        names: Names of the files in it.
    """
    candidates = [name for name in names if name.endswith(SUFFIX) and name not in _OTHER_HDF5]
    if not candidates or folder.name == "region_embeddings":
        return False
    kinds = [_schema(folder / path.name) for path in token_paths(folder)[:_PROBED]]
    return SCHEMA in kinds or set(kinds) == {""}


def _schema(path: Path) -> str:
    """Return the schema of an HDF5 file; empty if it cannot be read."""
    try:
        return str(describe_hdf5(path).attributes.get("schema", "other"))
    except (Hdf5Error, CacheError, OSError):
        return ""


def _folders(root: Path) -> list[Path]:
    """List a folder and the folders below it, sorted."""
    found, level = [root], [root]
    for _ in range(_DEPTH):
        level = [
            path
            for folder in level
            for path in sorted(_below(folder))
            if path.resolve().is_relative_to(root) and path.name not in _SKIPPED
        ]
        found += level
    return found


def _below(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [folder / each.name for each in entries if each.is_dir() and not each.name.startswith(".")]
    except OSError:
        return []
