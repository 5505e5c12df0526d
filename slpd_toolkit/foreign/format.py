"""Interface of formats, and their registry: a new file in `formats/` is a new format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from slpd_toolkit.foreign.features import Settings, SlideFeatures

FORMATS = Registry("slpd_toolkit.foreign.formats", "slpd import")
"""The docstring of a format's file is the help of its command; its first line is shown in the list of formats."""


@dataclass(frozen=True)
class SourceSlide:
    """The feature files of one slide in a folder."""

    slide_id: str
    files: tuple[Path, ...]


class Format(Protocol):
    """Names that the file of a format must define."""

    FOLDER: str
    """Folder that users pass, for messages: `CLAM's h5_files/`."""
    SUFFIXES: tuple[str, ...]
    """Suffixes of feature files."""
    NOT_FEATURES: tuple[str, ...]
    """Endings of other files with these suffixes in the same folder."""
    INNER_FOLDERS: tuple[str, ...]
    """Fixed names of the folder of features, for which its parent can be passed as well."""
    READS_COORDS: bool
    """Whether coordinates are separate from the features and `--coords` is used."""

    def recognises(self, path: Path) -> bool:
        """Return whether the tool wrote this file, by its content.

        Raises:
            SlideError: The file cannot be read.
        """

    def group(self, paths: Sequence[Path]) -> list[SourceSlide]:
        """Return the slides that feature files belong to, in the order of the files."""

    def read(self, slide: SourceSlide, settings: Settings) -> SlideFeatures:
        """Read one slide.

        Raises:
            SlideError: A file is damaged or inconsistent, or lacks information that the user can provide.
        """


def load(name: str) -> Format:
    """Import a format.

    Raises:
        UsageError: There is no format with this name; the message lists those that exist.
    """
    return cast("Format", FORMATS.load(name))


def one_file_per_slide(paths: Sequence[Path]) -> list[SourceSlide]:
    """Group files by name without suffix; `require_one` rejects slides with several files."""
    slides: dict[str, tuple[Path, ...]] = {}
    for path in paths:
        slides[path.stem] = (*slides.get(path.stem, ()), path)
    return [SourceSlide(slide_id, files) for slide_id, files in slides.items()]


def require_one(slide: SourceSlide) -> Path:
    """Return the only file of a slide.

    Raises:
        SlideError: The slide has several.
    """
    if len(slide.files) > 1:
        raise SlideError(
            f"{' and '.join(map(str, slide.files))} belong to the same slide.",
            hint="Keep the right file, and move the others to another folder.",
        )
    return slide.files[0]
