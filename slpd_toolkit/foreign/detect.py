"""Detection of the tool that wrote a folder of features, and listing of its slides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit.core.errors import SlideError, UsageError
from slpd_toolkit.foreign.bags import BAG_FOLDER, require_no_bags
from slpd_toolkit.foreign.format import FORMATS, load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from slpd_toolkit.foreign.format import Format, SourceSlide

_LOOKED_AT = 8  # number of files to try, because some may be damaged


def find(folder: Path, tool: str | None) -> tuple[str, list[SourceSlide]]:
    """Return the format of a folder, and its slides, sorted.

    Args:
        folder: Folder of the feature files, or its parent if the tool always uses the same folder name.
        tool: Name of the format; None detects it from the files.

    Raises:
        UsageError: The format is unknown, or the folder does not exist or contains no feature files.
    """
    formats = {name: load(name) for name in ((tool,) if tool else FORMATS.names())}
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder.", hint="Pass the folder that contains the feature files.")
    inner = dict.fromkeys(name for each in formats.values() for name in each.INNER_FOLDERS)
    for place in (folder, *(folder / name for name in inner)):
        paths = sorted({path for each in formats.values() for path in _files(place, each)})
        if paths:
            chosen = tool or _format_of(paths)
            files = _files(place, formats[chosen])
            if files[0].suffix == ".pt":
                require_no_bags(files, named=tool is not None)
            return chosen, formats[chosen].group(files)
    require_no_bags([*folder.glob("*.pt"), *(folder / BAG_FOLDER).glob("*.pt")], named=False)
    suffixes = sorted({suffix for each in formats.values() for suffix in each.SUFFIXES})
    raise UsageError(
        f"{folder} contains no feature files ({' or '.join(suffixes)}).",
        hint=f"Pass the folder that directly contains the files: "
        f"{', '.join(each.FOLDER for each in formats.values())}.",
    )


def format_of(path: Path) -> str:
    """Return the name of the format of a file, by its content.

    Raises:
        SlideError: The file is damaged, or its format is unknown.
    """
    for name in FORMATS.names():
        if path.suffix in load(name).SUFFIXES and load(name).recognises(path):
            return name
    raise SlideError(f"{path} has none of the known formats ({', '.join(FORMATS.names())}).")


def _format_of(paths: Sequence[Path]) -> str:
    """Return the format of the first file that is recognized."""
    problems = []
    for path in paths[:_LOOKED_AT]:
        try:
            return format_of(path)
        except SlideError as error:
            problems.append(f"  {error}")
    raise UsageError(
        f"{paths[0].parent}: none of the first files has a known format:\n" + "\n".join(problems),
        hint=f"Name the format if you know it: `slpd import {'|'.join(FORMATS.names())} DIR`.",
    )


def _files(folder: Path, of: Format) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix in of.SUFFIXES and not path.name.startswith(".") and not path.name.endswith(of.NOT_FEATURES)
    )
