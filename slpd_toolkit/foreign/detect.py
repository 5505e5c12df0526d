"""Which tool wrote a folder of features, and which slides are in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit.core.errors import SlideError, UsageError
from slpd_toolkit.foreign.bags import BAG_FOLDER, require_no_bags
from slpd_toolkit.foreign.format import FORMATS, load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from slpd_toolkit.foreign.format import Format, SourceSlide

_LOOKED_AT = 8  # files that may be damaged before one is found that tells the format


def find(folder: Path, tool: str | None) -> tuple[str, list[SourceSlide]]:
    """List the slides of a folder, sorted, and the format that they are in.

    Args:
        folder: Feature files; or the folder above it where the tool always uses the same name for it.
        tool: Name of the format; None detects it from the files.

    Raises:
        UsageError: No format has that name, the folder does not exist, or it holds no feature files.
    """
    formats = {name: load(name) for name in ((tool,) if tool else FORMATS.names())}
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder.", hint="Give the folder that holds the feature files.")
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
        f"{folder} holds no feature files ({' or '.join(suffixes)}).",
        hint=f"Give the folder of the files themselves: {', '.join(each.FOLDER for each in formats.values())}.",
    )


def format_of(path: Path) -> str:
    """Return the name of the format that a file is in, by its content.

    Raises:
        SlideError: The file is damaged, or in no known format.
    """
    for name in FORMATS.names():
        if path.suffix in load(name).SUFFIXES and load(name).recognises(path):
            return name
    raise SlideError(f"{path} is in none of the known formats ({', '.join(FORMATS.names())}).")


def _format_of(paths: Sequence[Path]) -> str:
    """Return the format of the first file that is recognised."""
    problems = []
    for path in paths[:_LOOKED_AT]:
        try:
            return format_of(path)
        except SlideError as error:
            problems.append(f"  {error}")
    raise UsageError(
        f"{paths[0].parent}: none of the first files is in a known format:\n" + "\n".join(problems),
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
