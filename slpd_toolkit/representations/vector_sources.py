"""Opening vectors of slides or patients from any file, and finding the slides of a manifest that they belong to."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import sha256
from slpd_toolkit.core.text import agree, count, listed
from slpd_toolkit.foreign.slide_vectors import read_slide_vectors
from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.representations.collapse import collapse_warning
from slpd_toolkit.representations.models import VectorTable
from slpd_toolkit.representations.vector_files import is_own_file, read_vectors_back
from slpd_toolkit.representations.vector_tables import patient_column, read_vectors

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from slpd_toolkit.foreign.slide_vectors import Per

_TABLES = (".csv", ".npz", ".parquet")


@dataclass(frozen=True, eq=False)
class StoredVectors:
    """Vectors of a file or folder, by the IDs in it."""

    bags: Bags
    """One vector, or one weighted set, per ID."""
    per: Per | None
    """What the IDs are; None if the file does not say."""
    tool: str = ""
    """What wrote it; empty for plain tables."""
    seen: frozenset[str] | None = None
    """Slides that the vectors were fitted on; None if that is not known."""


def read_stored_vectors(path: Path, *, no_features: Collection[str] = ()) -> StoredVectors:
    """Read vectors of `slpd represent`, of another tool, or a plain table.

    Args:
        path: File or folder.
        no_features: Columns of tables that are not features, such as those of the manifest.

    Raises:
        UsageError: The file cannot be read, or is not such a file.
    """
    found = _read(path, no_features)
    odd = [name for name in found.bags.slides if not _is_text(name)]
    if odd:
        raise UsageError(
            f"{path}: {count(len(odd), 'ID')} {agree(len(odd), 'is', 'are')} not valid UTF-8: {listed(odd)}.",
            hint="Rename the files, or write the IDs in UTF-8.",
        )
    return found


def _read(path: Path, no_features: Collection[str]) -> StoredVectors:
    if is_own_file(path):
        own = read_vectors_back(path)
        return StoredVectors(own.bags, own.per, "slpd represent", frozenset(own.fitted_on) or None)
    if path.is_file() and path.suffix.lower() in _TABLES:
        found = read_vectors(path, no_features=no_features)
        return StoredVectors(Bags.pack(found), "patient" if patient_column(path) else None)
    foreign = read_slide_vectors(path)
    if foreign.empty:
        console.warn(
            f"{path}: {count(len(foreign.empty), 'slide')} had no patch and "
            f"{agree(len(foreign.empty), 'has', 'have')} no vector: {listed(foreign.empty)}."
        )
    return StoredVectors(
        Bags.pack({name: vector[None] for name, vector in foreign.vectors.items()}), foreign.per, foreign.tool
    )


def open_table(
    name: str, path: Path, *, no_features: Collection[str] = (), patient_of: Mapping[str, str] | None = None
) -> VectorTable:
    """Open vectors as a model of slides.

    Vectors of patients represent each of their slides. They are recognized by a statement in the file, or because more
    IDs match patients than slides. A warning reports vectors that hardly differ.

    Args:
        name: Name of the model.
        path: File or folder.
        no_features: Columns of tables that are not features.
        patient_of: Patient of each slide of the manifest; None if all IDs are slides.

    Raises:
        UsageError: See `read_stored_vectors`.
    """
    stored = read_stored_vectors(path, no_features=no_features)
    bags = stored.bags
    console.warn_if(collapse_warning(name, bags.slides, bags.mean()))
    row_of = {each: row for row, each in enumerate(bags.slides)}
    rows = row_of
    if patient_of and _are_patients(stored, patient_of):
        rows = {slide: row_of[patient] for slide, patient in patient_of.items() if patient in row_of}
        rows |= {
            each: row for each, row in row_of.items() if each not in set(patient_of.values())
        }  # reported as unlisted
    inside = {slide: slice(int(bags.offsets[row]), int(bags.offsets[row + 1])) for slide, row in rows.items()}
    weights = bags.weights
    return VectorTable(
        name,
        f"{path} ({stored.tool})" if stored.tool else str(path),
        _digest(path),
        {slide: bags.features[part] for slide, part in inside.items()},
        None if weights is None else {slide: weights[part] for slide, part in inside.items()},
        stored.seen or frozenset(),
        stored.seen is not None,
    )


def _are_patients(stored: StoredVectors, patient_of: Mapping[str, str]) -> bool:
    if stored.per is not None:
        return stored.per == "patient"
    ids = set(stored.bags.slides)
    return len(ids & set(patient_of.values())) > len(ids & patient_of.keys())


def _is_text(name: str) -> bool:
    """Return whether a name has no bytes that could not be decoded, which Python keeps as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _digest(path: Path) -> str:
    try:
        if path.is_file():
            return sha256(path)
        digest = hashlib.sha256()
        for file in sorted(each for each in path.rglob("*") if each.is_file()):
            digest.update(os.fsencode(f"{file.relative_to(path)} {sha256(file)}\n"))
        return digest.hexdigest()
    except OSError as error:
        raise UsageError(
            f"{error.filename or path} cannot be read ({error.strerror or error}).", hint="Copy it again."
        ) from error
