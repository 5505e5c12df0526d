"""Bags of patch features without coordinates, as in CLAM's pt_files, which must not be mistaken for HIPT's regions."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from slpd_toolkit.core.errors import SlideError, UsageError
from slpd_toolkit.foreign.tensors import read_tensor
from slpd_toolkit.foreign.whole_regions import COORDINATES, COORDS_FOLDER, LOCATED, META, REGION_EMBEDDING, is_square

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BAG_FOLDER = "pt_files"
"""Name of CLAM's folder of bags."""
_LOOKED_AT = 16  # number of files, spread over the folder


def require_no_bags(paths: Sequence[Path], *, named: bool) -> None:
    """Check that tensors, one per file, are regions and not bags of whole slides.

    A bag of N patches, [N, D], has the shape of a region if N is a square number. However, all regions of a folder have
    the same number of patches, and known positions unless the user named the format.

    Args:
        paths: All files of the folder.
        named: Whether the user named the format.

    Raises:
        UsageError: They are bags, or could be.
    """
    shapes = {path: shape for path, shape in _shapes(paths).items() if _could_be_bag(path, shape)}
    if not shapes:
        return
    counts = Counter(shape[-2] for shape in shapes.values())
    (patches, files), *_ = counts.most_common(1)
    located = all(map(_is_located, shapes))
    alike = is_square(patches) and (2 * files > len(shapes) if located else len(counts) == 1)
    of_clam = any(path.parent.name == BAG_FOLDER for path in shapes)
    if alike and not of_clam and (located or named):
        return
    path = next((path for path, shape in shapes.items() if not is_square(shape[-2])), next(iter(shapes)))
    if alike and not of_clam:
        raise UsageError(
            f"{path}: features are {shapes[path]}: one region, as in HIPT, or all patches of a slide without "
            "coordinates, as in CLAM's pt_files.",
            hint="If these are regions, name the format: `slpd import hipt DIR`. If they are CLAM's, import h5_files/ "
            "with --coords RESULTS/patches.",
        )
    raise UsageError(
        f"{path}: features are {shapes[path]}: all patches of a slide without coordinates, as in CLAM's pt_files.",
        hint="Import CLAM's h5_files/ with --coords RESULTS/patches."
        + (f" If these are HIPT's regions, rename the folder {BAG_FOLDER}/." if alike else ""),
    )


def _shapes(paths: Sequence[Path]) -> dict[Path, tuple[int, ...]]:
    shapes = {}
    for path in sorted(paths)[:: max(1, len(paths) // _LOOKED_AT)]:
        with suppress(SlideError):
            shapes[path] = read_tensor(path).shape
    return shapes


def _could_be_bag(path: Path, shape: tuple[int, ...]) -> bool:
    """Return whether a tensor could be a bag, [N, D] or [1, N, D].

    Other checks report files of slide2vec, which have a JSON file next to them, and region embeddings, [N, 192].
    """
    if path.with_name(path.stem + META).is_file():
        return False
    if len(shape) == 2:
        return shape[1] != REGION_EMBEDDING or _is_located(path)
    return len(shape) == 3 and shape[0] == 1


def _is_located(path: Path) -> bool:
    return bool(LOCATED.fullmatch(path.stem)) or (path.parent / COORDS_FOLDER / (path.stem + COORDINATES)).is_file()
