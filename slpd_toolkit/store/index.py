"""The index of a cache: the headers of all its token files in one file, `.index`.

Opening a token file takes milliseconds; reading twenty thousand headers from the index takes one second. An entry is
valid only while the size, times and inode of its file are unchanged. A cache without an index, or with an index that
cannot be written, also works. If several runs write the index at the same time, the last one wins; headers that are
missing from it are read from the token files again.

The file consists of a line `slpd-index <version> <SHA-256 of the rest> <bytes of JSON>`, the JSON, and the coordinates
and checksums.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import CacheError
from slpd_toolkit.core.files import atomic_path, remove_leftovers, require_regular
from slpd_toolkit.core.text import count
from slpd_toolkit.store import schema
from slpd_toolkit.store.header import Header, Stamp, read_header, read_plain_header
from slpd_toolkit.store.schema import TokenMeta

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FILENAME = ".index"
VERSION = 3
_MAGIC = "slpd-index"
_WORTH_WRITING = 32
"""Minimum number of new entries for which the index is written; fewer are read again next time."""
_SETTLED_S = 2.0
"""Files modified more recently than this are not indexed: they may change again without a change of the stamp."""
_MANY = 2000
_THREADS = 4
_OWN = (
    "slide_id",
    "slide_width_l0",
    "slide_height_l0",
    "slide_fingerprint",
    "mpp_l0",
    "effective_mpp",
    "upsampling",
    "region_l0",
    "mask",
    "source",
    "stain",
)
"""Attributes that differ between slides; the others are stored once for all slides that share them."""


def read_headers(folder: Path, paths: Sequence[Path]) -> list[Header | CacheError]:
    """Read the headers of token files, from the index if it has them, otherwise from the files.

    Args:
        folder: The cache.
        paths: Token files in it.

    Returns:
        For each path, in order: the header, or the error if the file cannot be used.
    """
    known = _load(folder / FILENAME) if len(paths) >= _WORTH_WRITING else {}
    found = dict[str, Header | CacheError]()
    for path in paths:
        header = known.get(path.name)
        with suppress(OSError):
            if header is not None and header.stamp == Stamp.of(path):
                found[path.name] = header
    unknown = [path for path in paths if path.name not in found]
    if len(unknown) >= _MANY:
        console.note(
            f"{folder}: reading {count(len(unknown), 'token file')}; the next command will find them in an index."
        )
    found |= dict(zip([path.name for path in unknown], _read_all(unknown), strict=True))
    if len(unknown) >= _WORTH_WRITING:
        with suppress(OSError):  # with a read-only cache or a full disk, only the next start takes longer
            _store(folder / FILENAME, known | {name: each for name, each in found.items() if isinstance(each, Header)})
    return [found[path.name] for path in paths]


def _read_all(paths: Sequence[Path]) -> list[Header | CacheError]:
    if len(paths) < _WORTH_WRITING:
        return [_read(path) for path in paths]
    plain = [_read_plain(path) for path in paths]
    rest = [path for path, header in zip(paths, plain, strict=True) if header is None]
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), thread_name_prefix="header-reader") as pool:
        others = pool.map(_read, rest)
        return [next(others) if header is None else header for header in plain]


def _read_plain(path: Path) -> Header | None:
    try:
        return read_plain_header(path)
    except OSError:
        return None  # `_read` reports the reason


def _read(path: Path) -> Header | CacheError:
    try:
        return read_header(path)
    except CacheError as error:
        return error


def _store(path: Path, headers: Mapping[str, Header]) -> None:
    newest = time.time_ns() - int(_SETTLED_S * 1e9)
    shared = dict[str, int]()
    entries, arrays = [], []
    for name, header in sorted(headers.items()):
        if max(header.stamp.ctime_ns, header.stamp.mtime_ns) > newest or not (path.parent / name).exists():
            continue
        attributes = asdict(header.meta)
        own = [attributes.pop(name) for name in _OWN]
        template = shared.setdefault(json.dumps(attributes, sort_keys=True), len(shared))
        has_checksums = header.checksums is not None
        offsets = (header.tokens_offset, header.tissue_offset, header.present_offset)
        regions, missing = len(header.coords), header.missing_patches
        entries.append([name, header.stamp, template, own, regions, has_checksums, header.digest, missing, offsets])
        arrays.append(header.coords.tobytes())
        if header.checksums is not None:
            arrays.append(header.checksums.tobytes())
    text = json.dumps({"shared": list(shared), "files": entries}).encode()
    rest = text + b"".join(arrays)
    line = f"{_MAGIC} {VERSION} {hashlib.sha256(rest).hexdigest()} {len(text)}\n".encode()
    remove_leftovers(path)
    with atomic_path(path) as partial:
        partial.write_bytes(line + rest)


def _load(path: Path) -> dict[str, Header]:
    """Read an index; the result is empty if it is missing, damaged or of another version."""
    try:
        require_regular(path)
        line, _, rest = path.read_bytes().partition(b"\n")
        magic, version, digest, length = line.decode().split(" ")
        if (magic, version) != (_MAGIC, str(VERSION)) or hashlib.sha256(rest).hexdigest() != digest:
            return {}
        found = json.loads(rest[: int(length)])
        return _headers(found, rest, int(length))
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _headers(found: Mapping[str, Any], rest: bytes, position: int) -> dict[str, Header]:
    shared = [json.loads(text) for text in found["shared"]]
    for attributes in shared:
        attributes |= {name: tuple(attributes[name]) for name in ("mean", "std")}
    headers = {}
    for name, stamp, template, own, regions, has_checksums, digest, missing, offsets in found["files"]:
        coords = np.frombuffer(rest, schema.COORD_DTYPE, 2 * regions, position).reshape(regions, 2)
        position += coords.nbytes
        checksums = np.frombuffer(rest, schema.CHECKSUM_DTYPE, regions, position) if has_checksums else None
        position += 0 if checksums is None else checksums.nbytes
        headers[name] = Header(
            meta=TokenMeta(**shared[template], **dict(zip(_OWN, own, strict=True))),
            coords=coords,
            checksums=checksums,
            digest=digest,
            missing_patches=missing,
            tokens_offset=offsets[0],
            tissue_offset=offsets[1],
            present_offset=offsets[2],
            stamp=Stamp(*stamp),
        )
    return headers
