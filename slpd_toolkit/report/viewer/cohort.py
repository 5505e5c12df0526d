"""The slides of a folder: every slide that a cache, a run, an evaluation or a manifest names, with what is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from slpd_toolkit.core.errors import CacheError, UsageError
from slpd_toolkit.core.failures import read_failures
from slpd_toolkit.report.viewer.manifests import Listed, read_manifest, recorded_caches, recorded_manifests
from slpd_toolkit.report.viewer.predictions import Predicted, read_predictions
from slpd_toolkit.report.viewer.regions import Layers
from slpd_toolkit.store import schema
from slpd_toolkit.store.token_file import TokenFile, open_token_files, token_paths

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from slpd_toolkit.report.viewer.folder import Parts

DAMAGED, NO_REGIONS = "damaged", "no regions"


@dataclass(frozen=True, eq=False)
class ViewedCohort:
    """What the viewer shows. Only headers were read: the token files stay closed until their slide is shown."""

    parts: Parts
    files: Mapping[str, TokenFile]
    """Token files that can be used."""
    faults: Mapping[str, str]
    """Slides whose token file is damaged or that could not be embedded, and why."""
    listed: Listed
    predicted: tuple[Predicted, ...]
    layers: Layers
    notes: tuple[str, ...] = ()
    """What could not be used."""
    slides: tuple[str, ...] = field(default=())
    """IDs of all slides, sorted."""

    @classmethod
    def open(cls, parts: Parts, manifest: Path | None, slides_root: Path | None) -> ViewedCohort:
        """Read the index of the cache, predictions and manifests.

        Raises:
            UsageError: The manifest cannot be read, or there is no slide.
        """
        notes = list[str]()
        files, faults = _tokens(parts, notes)
        meta = next(iter(files.values())).meta if files else None
        if manifest is not None:
            listed = read_manifest(manifest, slides_root)
        else:
            listed = recorded_manifests(parts, meta, slides_root)
        predicted = list[Predicted]()
        for folder in parts.evaluations:
            try:
                predicted += read_predictions(folder, parts.name_of(folder))
            except (ValueError, OSError) as error:
                notes.append(f"{parts.name_of(folder)}: predictions.csv cannot be read ({error}).")
        layers = Layers(parts)
        known: set[str] = files.keys() | faults.keys()
        if not known:
            known = layers.slides().union(*(each.outputs for each in predicted))
        slides = tuple(sorted(known or listed.cells.keys()))
        if not slides:
            raise UsageError(f"{parts.root} contains no slides.", hint="Pass a folder with results.")
        notes += [f"{name}: {error}" for name, error in layers.problems.items()]
        if not parts.caches:
            caches = recorded_caches(parts)
            notes += [f"Without a token cache, layers are missing: pass --cache {path}." for path in caches[:1]]
        return cls(parts, files, faults, listed, tuple(predicted), layers, tuple(notes), slides)

    @cached_property
    def position(self) -> dict[str, int]:
        """Position of each slide in the list."""
        return {slide: place for place, slide in enumerate(self.slides)}

    def describe(self) -> dict[str, Any]:
        """Return the list of slides as plain values, for the page."""
        return {
            "title": self.parts.root.name,
            "columns": self._columns(),
            "results": [
                {"name": each.name, "classes": list(each.classes), "unit": each.unit} for each in self.predicted
            ],
            "runs": [self.parts.name_of(run) for run in self.parts.runs],
            "notes": list(self.notes),
            "slides": [self._row(slide) for slide in self.slides],
        }

    def _columns(self) -> list[str]:
        """Return the columns of the manifests, with those that look like labels first."""
        found = dict.fromkeys(name for slide in self.slides for name in self.listed.cells.get(slide, ()))
        first = [name for name in ("label", "target", "grade", "class", "subtype") if name in found]
        last = [name for name in ("patient_id", "site", "split", "fold") if name in found]
        return [*first, *(name for name in found if name not in {*first, *last}), *last]

    def _row(self, slide_id: str) -> dict[str, Any]:
        file = self.files.get(slide_id)
        row: dict[str, Any] = {"id": slide_id, "regions": None if file is None else len(file)}
        cells = self.listed.cells.get(slide_id)
        if cells:
            row["cells"] = dict(cells)
        outputs = [[round(value, 5) for value in each.outputs.get(slide_id, ())] for each in self.predicted]
        if any(outputs):
            row["outputs"] = outputs
            row["decisions"] = [each.decisions.get(slide_id, "") for each in self.predicted]
            row["targets"] = [each.targets.get(slide_id, "") for each in self.predicted]
            row["far"] = [slide_id in each.far for each in self.predicted]
        fault = self.faults.get(slide_id) or self.listed.problems.get(slide_id)
        if fault:
            row["fault"] = fault
        row["pixels"] = slide_id in self.listed.entries
        return row


def _tokens(parts: Parts, notes: list[str]) -> tuple[dict[str, TokenFile], dict[str, str]]:
    """Open the token files through the indices of the caches; also return what is wrong with slides.

    A slide that is in several caches is shown with the regions of the first. Caches of another encoder or geometry than
    the first are left out.
    """
    files: dict[str, TokenFile] = {}
    faults: dict[str, str] = {}
    for cache in parts.caches:
        opened = dict[str, TokenFile]()
        paths = token_paths(cache)
        for path, found in zip(paths, open_token_files(cache, paths), strict=True):
            if isinstance(found, CacheError):
                faults[path.stem] = str(found)
            else:
                opened[found.meta.slide_id] = found
        differences = {_difference(file, files) for file in opened.values()} - {""}
        if differences:
            notes.append(
                f"{parts.name_of(cache)} is not shown, because it differs from the first cache: {min(differences)}. "
                "Choose one with --cache."
            )
            continue
        files = opened | files
        for row in read_failures(cache).to_dict("records"):
            if row["slide_id"]:
                faults.setdefault(str(row["slide_id"]), f"{row['error']} {row['hint']}".strip())
    return files, {slide: fault for slide, fault in faults.items() if slide not in files}


def _difference(file: TokenFile, files: Mapping[str, TokenFile]) -> str:
    first = next(iter(files.values()), file)
    return schema.disagreement(file.meta, first.meta, schema.COHORT_FIELDS)
