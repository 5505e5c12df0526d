"""Selection of the slides to import, all of a folder or those of a manifest, with their names in the cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.failures import Failure
from slpd_toolkit.core.files import is_safe_name
from slpd_toolkit.core.manifest import read_table
from slpd_toolkit.core.units import MPP_RANGE, is_plausible_mpp
from slpd_toolkit.foreign.features import is_a_name

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from slpd_toolkit.foreign.format import SourceSlide

STAGE = "import"


@dataclass(frozen=True)
class ImportTarget:
    """A slide to import: its files, and its name in the cache."""

    slide_id: str
    source: SourceSlide
    mpp_l0: float | None = None


def choose_targets(sources: Sequence[SourceSlide], manifest: Path | None) -> tuple[list[ImportTarget], list[Failure]]:
    """Match the slides of a folder with a manifest by slide_id, otherwise by the name of the slide file.

    Args:
        sources: Slides of the folder.
        manifest: Cohort CSV; None to import every slide under its own name.

    Returns:
        The slides to import, sorted by slide_id, and the rows of the manifest that cannot be imported.

    Raises:
        UsageError: The manifest cannot be read.
    """
    if manifest is None:
        return [ImportTarget(source.slide_id, source) for source in sources], []
    by_name = {source.slide_id: source for source in sources}
    targets, problems = list[ImportTarget](), list[Failure]()
    taken: dict[Path, str] = {}
    for row in read_table(manifest).to_dict("records"):
        match = _match(row, by_name, taken, manifest)
        if isinstance(match, Failure):
            problems.append(match)
        else:
            taken[match.source.files[0]] = match.slide_id
            targets.append(match)
    return sorted(targets, key=lambda target: target.slide_id), problems


def require_name(target: ImportTarget) -> None:
    """Check that the name of a slide is a valid name of a token file.

    Raises:
        SlideError: It cannot.
    """
    if not is_safe_name(target.slide_id) or not is_a_name(target.slide_id):
        raise SlideError(
            f"the slide would be named {target.slide_id!r}, allowed: letters, digits, '.', '_', '-', not starting "
            "with '.', and not a word for a missing name such as None.",
            hint="Rename the file, or use a --manifest with a slide_id for the slide_path with this file name.",
        )


def _match(
    row: Mapping[Hashable, str], by_name: Mapping[str, SourceSlide], taken: Mapping[Path, str], manifest: Path
) -> ImportTarget | Failure:
    """Return the target of a row, or a failure with the reason why there is none."""
    slide_id, mpp = row["slide_id"], row.get("mpp", "")
    source = by_name.get(slide_id) or by_name.get(Path(row["slide_path"]).stem)
    if source is None:
        hint = "Extract them, or remove the row from the manifest."
        return Failure(STAGE, slide_id, row["slide_path"], "there are no features of this slide.", hint)
    if source.files[0] in taken:
        error = f"{source.files[0]} already belongs to slide {taken[source.files[0]]} of the manifest."
        hint = "Two slides cannot have the same features: list the slide of each file once."
        return Failure(STAGE, slide_id, str(manifest), error, hint)
    if mpp and not _is_mpp(mpp):
        hint = f"Allowed: {MPP_RANGE[0]} to {MPP_RANGE[1]} um/px, or empty."
        return Failure(STAGE, slide_id, str(manifest), f"mpp is {mpp!r}.", hint)
    return ImportTarget(slide_id, source, float(mpp) if mpp else None)


def _is_mpp(text: str) -> bool:
    try:
        return is_plausible_mpp(float(text))
    except ValueError:
        return False
