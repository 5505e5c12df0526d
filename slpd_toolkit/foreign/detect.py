"""Which tool wrote a folder of features, which slides are in it, and how each is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slpd_toolkit.core.errors import SlideError, UsageError
from slpd_toolkit.foreign import clam, hipt, slide2vec, stamp, trident
from slpd_toolkit.foreign.features import TOOLS
from slpd_toolkit.foreign.rows import open_h5
from slpd_toolkit.foreign.tensors import read_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from slpd_toolkit.foreign.features import Settings, SlideFeatures, Tool

_SUFFIXES: dict[Tool, tuple[str, ...]] = {
    "trident": (".h5",),
    "clam": (".h5",),
    "stamp": (".h5",),
    "slide2vec": (".pt", ".npz"),
    "hipt": (".pt",),
}
_INNER_FOLDERS = ("h5_files", "hierarchical_embeddings")
_LOOKED_AT = 8  # files that may be damaged before one is found that tells the tool


@dataclass(frozen=True)
class Found:
    """One slide's files in a folder."""

    slide_id: str
    files: tuple[Path, ...]


def find(folder: Path, tool: Tool | None) -> tuple[Tool, list[Found]]:
    """List the slides of a folder, sorted, and tell which tool wrote them.

    Args:
        folder: Features, a file a slide; or the folder above it where the tool's name for it is fixed.
        tool: What the user says it is; None finds out from the files.

    Raises:
        UsageError: There is no such folder, nothing in it, or nothing of the tool.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder.", hint="Give the folder that holds the feature files.")
    for place in (folder, *(folder / name for name in _INNER_FOLDERS)):
        tools = (tool,) if tool else TOOLS
        paths = _files(place, {suffix for each in tools for suffix in _SUFFIXES[each]})
        if paths:
            chosen = tool or _tool_of(paths)
            return chosen, _slides(_files(place, set(_SUFFIXES[chosen])), chosen)
    wanted = " or ".join(sorted({suffix for each in ((tool,) if tool else TOOLS) for suffix in _SUFFIXES[each]}))
    raise UsageError(
        f"{folder} holds no feature files ({wanted}).",
        hint="Give the folder of the files themselves: TRIDENT's features_<encoder>/, CLAM's h5_files/, STAMP's "
        "<extractor>/, slide2vec's hierarchical_embeddings/, HIPT's folder of .pt files.",
    )


def read_slide(found: Found, tool: Tool, settings: Settings) -> SlideFeatures:
    """Read one slide's features as its tool keeps them.

    Raises:
        SlideError: A file is damaged or inconsistent, or lacks something that the user can say.
    """
    if tool == "hipt":
        return hipt.read(found.slide_id, found.files, settings)
    if len(found.files) > 1:
        raise SlideError(
            f"{' and '.join(map(str, found.files))} are of one slide.",
            hint="Keep one of them: which holds what was meant cannot be told.",
        )
    reader = {"trident": trident.read, "clam": clam.read, "stamp": stamp.read, "slide2vec": slide2vec.read}[tool]
    return reader(found.files[0], settings)


def tool_of(path: Path) -> Tool:
    """Tell which tool wrote a file, by its content.

    Raises:
        SlideError: It is damaged, or of no tool that is known.
    """
    if path.suffix == ".h5":
        file = open_h5(path)
        names = set(file.names)
        coords = file.datasets.get(trident.COORDS)
        of_trident = coords is not None and trident.PATCH_L0 in coords.attributes
        if {stamp.FEATURES, stamp.COORDS} <= names:
            return "stamp"
        if {trident.FEATURES, trident.COORDS} <= names:
            return "trident" if of_trident else "clam"
        raise SlideError(f"{path} holds {', '.join(sorted(names)) or 'nothing'}, not patch features with coordinates.")
    if path.with_name(path.stem + slide2vec.META).is_file() or path.suffix == ".npz":
        return "slide2vec"
    read_tensor(path)
    return "hipt"


def _tool_of(paths: Sequence[Path]) -> Tool:
    """The tool of the first file that tells it."""
    problems = []
    for path in paths[:_LOOKED_AT]:
        try:
            return tool_of(path)
        except SlideError as error:
            problems.append(f"  {error}")
    raise UsageError(
        f"{paths[0].parent}: no file that was looked at is of a tool that is known:\n" + "\n".join(problems),
        hint=f"Name the tool if you know it: `slpd import {'|'.join(TOOLS)} DIR`.",
    )


def _files(folder: Path, suffixes: set[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix in suffixes and not path.name.startswith(".") and not path.name.endswith(slide2vec.COORDINATES)
    )


def _slides(paths: Sequence[Path], tool: Tool) -> list[Found]:
    if tool == "hipt":
        return [Found(slide_id, files) for slide_id, files in hipt.group(paths)]
    slides: dict[str, tuple[Path, ...]] = {}
    for path in paths:
        slides[path.stem] = (*slides.get(path.stem, ()), path)
    return [Found(slide_id, files) for slide_id, files in slides.items()]
