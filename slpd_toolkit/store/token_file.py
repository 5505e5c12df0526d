"""Token files and token caches; tokens are memory-mapped, without copying."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import CacheError, UsageError
from slpd_toolkit.core.failures import read_failures
from slpd_toolkit.core.text import count
from slpd_toolkit.store import schema
from slpd_toolkit.store.header import read_array, read_header, unreadable_now
from slpd_toolkit.store.index import read_headers

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from typing import Any

    import numpy.typing as npt
    import pandas as pd

    from slpd_toolkit.store.header import Header
    from slpd_toolkit.store.schema import TokenMeta


@dataclass(frozen=True, eq=False)
class TokenFile:
    """Tokens of one slide. Opening reads and checks the header; tokens are mapped when first used.

    >>> file = slpd.TokenFile.open("cache/slide000.h5")
    >>> file.tokens.shape, file.coords.shape, file.tissue.shape
    ((9, 6, 6, 8), (9, 2), (9, 6, 6))
    >>> file.meta.target_mpp
    0.5
    """

    path: Path
    header: Header

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> TokenFile:
        """Open and check a token file.

        Raises:
            CacheError: It is not a token file, cannot be read, is damaged, or is inconsistent.
        """
        return cls(Path(path), read_header(Path(path)))

    @property
    def meta(self) -> TokenMeta:
        """Attributes of the file."""
        return self.header.meta

    @property
    def coords(self) -> npt.NDArray[np.int64]:
        """(R, 2) x and y of the top-left corner of each region, level-0 px."""
        return self.header.coords

    @property
    def tokens_offset(self) -> int:
        """Position of the tokens in the file, bytes."""
        return self.header.tokens_offset

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def missing_patches(self) -> int:
        """Number of patches without a token."""
        return self.header.missing_patches

    @cached_property
    def tissue(self) -> npt.NDArray[np.float16]:
        """(R, grid, grid) tissue fraction of each patch.

        Raises:
            CacheError: The file can no longer be read.
        """
        return self._read(self.header.tissue_offset, schema.TISSUE_DTYPE)

    @cached_property
    def present(self) -> npt.NDArray[np.bool_] | None:
        """(R, grid, grid) bool, patches that have a token (tokens of the others are zeros); None if all have.

        Raises:
            CacheError: The file can no longer be read.
        """
        offset = self.header.present_offset
        return None if offset is None else self._read(offset, schema.PRESENT_DTYPE)

    def _read(self, offset: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        try:
            return read_array(self.path, offset, (len(self), self.meta.grid, self.meta.grid), dtype)
        except OSError as error:
            raise unreadable_now(self.path, error) from error

    @cached_property
    def tokens(self) -> npt.NDArray[np.float16]:
        """(R, grid, grid, D) float16, memory-mapped: slicing does not copy, and pages are read when they are used."""
        grid, width = self.meta.grid, self.meta.embedding_dim
        if not len(self):
            return np.empty((0, grid, grid, width), schema.TOKEN_DTYPE)
        try:
            # Copy-on-write instead of read-only, because torch.from_numpy warns about read-only arrays.
            return np.memmap(self.path, schema.TOKEN_DTYPE, "c", self.tokens_offset, (len(self), grid, grid, width))
        except (OSError, ValueError) as error:
            raise CacheError(
                f"{self.path}: tokens cannot be memory-mapped ({error}).",
                hint="Restore the file and run the command again.",
            ) from error

    def verify(self) -> None:
        """Check the tokens against their checksums, which files of version 1 do not have. Reads the whole file.

        Raises:
            CacheError: The tokens of a region do not match their checksum.
        """
        if self.header.checksums is None:
            return
        for region, (tokens, checksum) in enumerate(zip(self.tokens, self.header.checksums.tolist(), strict=True)):
            if zlib.crc32(tokens) != checksum:
                raise changed_tokens(self.path, region)


def changed_tokens(path: Path, region: int) -> CacheError:
    """Describe a region whose tokens do not match its checksum."""
    return CacheError(f"{path}: the tokens of region {region} do not match their checksum.", hint=schema.REWRITE)


class TokenStore:
    """A token cache: all its token files, with the same encoder and geometry.

    A store opened from a folder can be used wherever the path of a token cache is expected.

    Args:
        files: Token files, at least one.
        folder: Folder of the cache; None if the files are from several folders.

    Raises:
        CacheError: Two files differ in encoder or geometry, or belong to the same slide; the message names both files
            and every attribute that differs.

    >>> cache = slpd.TokenStore.open("cache")
    >>> cache.slides[["slide_id", "regions", "mpp_l0", "encoder"]].head(2).values.tolist()
    [['slide000', 9, 0.5, 'planted'], ['slide001', 3, 0.5, 'planted']]
    >>> cache["slide000"].tokens.shape
    (9, 6, 6, 8)
    >>> cache.region(0, 8).shape
    (6, 6, 8)
    """

    def __init__(self, files: Sequence[TokenFile], folder: Path | None = None) -> None:
        self.files = tuple(files)
        self.folder = folder
        first = self.files[0]
        of_cohort = attrgetter(*schema.COHORT_FIELDS)
        expected = of_cohort(first.meta)
        of_slide: dict[str, TokenFile] = {}
        for slide in self.files:
            other = of_slide.setdefault(slide.meta.slide_id, slide)
            if other is not slide:
                raise CacheError(
                    f"{slide.path} and {other.path} both belong to slide {slide.meta.slide_id!r}.",
                    hint="A cache must contain each slide once, as <slide_id>.h5: remove the copy.",
                )
            if of_cohort(slide.meta) != expected:
                differences = schema.disagreement(slide.meta, first.meta, schema.COHORT_FIELDS)
                raise CacheError(
                    f"{slide.path} does not match {first.path}: {differences}.",
                    hint="All files of a cache must have the same encoder and geometry: move the file to a separate "
                    "cache.",
                )

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> TokenStore:
        """Open every token file of a folder, sorted by slide_id.

        Raises:
            CacheError: The folder does not exist or has no token files, or a file cannot be read or does not match the
            others.
        """
        folder = Path(folder)
        paths = token_paths(folder)
        if not paths:
            state = "has no token file (*.h5)" if folder.is_dir() else "does not exist"
            raise CacheError(f"Token cache {folder} {state}.", hint="Write one with `slpd embed`.")
        files = list[TokenFile]()
        for found in open_token_files(folder, paths):
            if isinstance(found, CacheError):
                raise found
            files.append(found)
        return cls(files, folder)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, slide_id: str) -> TokenFile:
        """Return the token file of a slide.

        Raises:
            KeyError: The cache does not contain this slide.
        """
        return self.files[self._position[slide_id]]

    def __fspath__(self) -> str:
        if self.folder is None:
            raise TypeError("This store was not opened from a folder, so it has no path. Use TokenStore.open(folder).")
        return str(self.folder)

    def __repr__(self) -> str:
        return (
            f"TokenStore({str(self.folder or '')!r}: {count(len(self), 'slide')}, "
            f"{count(self.lengths.sum(), 'region')} of {self.grid} x {self.grid} tokens, {self.embedding_dim} features "
            f"of {self.meta.encoder})"
        )

    @cached_property
    def slides(self) -> pd.DataFrame:
        """One row per slide, in the order of `files`.

        Columns: slide_id; regions; missing_patches; tissue (mean fraction of the regions, 0-1); mpp_l0 and target_mpp
        (um/px of level 0 and of the tokens); region_px and patch_px (at target_mpp); region_l0, width_l0 and height_l0
        (level-0 px); encoder; embedding_dim; path.
        """
        import pandas as pd

        return pd.DataFrame([_describe(file) for file in self.files])

    @property
    def failures(self) -> pd.DataFrame:
        """Slides that are missing because they failed, with the columns stage, slide_id, path, error and hint.

        Read from the failures.csv that the last `embed` or `import_features` wrote, or from those of all shards.
        """
        return read_failures(self.folder)

    @property
    def meta(self) -> TokenMeta:
        """Attributes of the first slide; those in `schema.COHORT_FIELDS` are the same for all slides."""
        return self.files[0].meta

    @property
    def grid(self) -> int:
        """Number of patches along one side of a region."""
        return self.meta.grid

    @property
    def embedding_dim(self) -> int:
        """Number of features of a token."""
        return self.meta.embedding_dim

    @cached_property
    def slide_ids(self) -> tuple[str, ...]:
        """Slide IDs, in the order of `files`."""
        return tuple(slide.meta.slide_id for slide in self.files)

    @cached_property
    def _position(self) -> dict[str, int]:
        return {slide_id: index for index, slide_id in enumerate(self.slide_ids)}

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(S,) number of regions of each slide."""
        return np.array([len(slide) for slide in self.files], np.int64)

    @cached_property
    def has_gaps(self) -> bool:
        """Whether any patch of any slide has no token."""
        return any(slide.missing_patches for slide in self.files)

    def region(self, slide: int, region: int) -> npt.NDArray[np.float16]:
        """Return the tokens of one region, (grid, grid, D) float16: a view of the file, not a copy."""
        view: npt.NDArray[np.float16] = self.files[slide].tokens[region]
        return view


def _describe(file: TokenFile) -> dict[str, object]:
    meta = file.meta
    return {
        "slide_id": meta.slide_id,
        "regions": len(file),
        "missing_patches": file.missing_patches,
        "tissue": float(file.tissue.mean(dtype=np.float64)) if len(file) else float("nan"),
        "mpp_l0": meta.mpp_l0,
        "target_mpp": meta.target_mpp,
        "region_px": meta.region_px,
        "patch_px": meta.patch_px,
        "region_l0": meta.region_l0,
        "width_l0": meta.slide_width_l0,
        "height_l0": meta.slide_height_l0,
        "encoder": meta.encoder,
        "embedding_dim": meta.embedding_dim,
        "path": str(file.path),
    }


def token_paths(folder: Path) -> list[Path]:
    """List the token files of a folder, sorted; hidden files are unfinished and left out."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - sorting thousands of paths takes longer than reading an index
    except OSError:
        return []
    return [folder / name for name in sorted(names) if name.endswith(schema.SUFFIX) and not name.startswith(".")]


def open_token_files(folder: Path, paths: Sequence[Path]) -> Iterator[TokenFile | CacheError]:
    """Open token files of a cache; fast for files that are unchanged since they were indexed.

    Yields:
        For each path, in order: the token file, or the error if it cannot be used.
    """
    for path, header in zip(paths, read_headers(folder, paths), strict=True):
        yield header if isinstance(header, CacheError) else TokenFile(path, header)


def require_same(path: Path, meta: TokenMeta) -> None:
    """Check that an existing token file is what this run would write.

    Raises:
        CacheError: It is unreadable, or differs in an attribute; the message names it and both values.
    """
    found = TokenFile.open(path).meta
    each = (schema.run_disagreement(found, meta), schema.disagreement(found, meta, schema.SLIDE_FIELDS))
    if differences := ", ".join(filter(None, each)):
        raise CacheError(f"{path} already exists, but {differences}.", hint="Use --overwrite to replace it.")


def require_same_run(folder: Path, wanted: TokenMeta, redone: Collection[str]) -> None:
    """Check that a run does not mix encoders or geometries in one cache.

    Args:
        folder: The cache.
        wanted: Attributes that are the same for all files of this run.
        redone: Slides whose files the run replaces.

    Raises:
        UsageError: A file of the cache differs (the message names the file, the attributes and both values), or no file
            of the cache can be read.
    """
    readable, unreadable = False, list[CacheError]()
    for found in open_token_files(folder, [path for path in token_paths(folder) if path.stem not in redone]):
        if isinstance(found, CacheError):
            unreadable.append(found)  # if it is the file of a slide of this run, that slide fails
            continue
        readable = True
        if differences := schema.run_disagreement(found.meta, wanted):
            raise UsageError(
                f"{found.path} was written with other settings: {differences}.",
                hint="Use another --out or the same settings, or --overwrite to replace the slides of this run.",
            )
    if unreadable and not readable:
        raise UsageError(
            f"{folder}: no file of the cache can be read, so its encoder is unknown. {unreadable[0].message}",
            hint=f"{unreadable[0].hint} Or use another --out.",
        )
