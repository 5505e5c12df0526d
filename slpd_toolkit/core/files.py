"""Atomic file writing, and digests of file contents."""

import csv
import errno
import hashlib
import io
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeAlias

from slpd_toolkit.core.cells import mark_text
from slpd_toolkit.core.errors import UsageError

Location: TypeAlias = Path | str
"""A path, or a URL that fsspec opens, as text."""
SLIDE_ID = re.compile(r"[A-Za-z0-9._-]+")
_FINGERPRINT_BYTES = 1 << 20
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*::)*[A-Za-z][A-Za-z0-9+.-]*://")
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_RANDOM_CHARACTERS = 8  # in the names that `tempfile` generates


def is_safe_name(name: str) -> bool:
    """Return whether `name` is a safe file name: `[A-Za-z0-9._-]+`, neither hidden nor a path out of the folder."""
    return SLIDE_ID.fullmatch(name) is not None and not name.startswith(".")


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of the file that is written, never of one that is read."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a hidden sibling of `path` to write to; on success it is synced to disk and replaces `path`.

    A crash at any time, including kill -9 and power loss, leaves either the old file or the new one. The sibling is
    removed on an exception. Killed processes leave siblings named `.<name>.<random>.tmp` behind; see
    `remove_leftovers`.

    Raises:
        OSError: The file cannot be written (disk full, quota, read-only); the message names `path`.
    """
    with _naming(path):
        yield from _written(path)


def _written(path: Path) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        os.chmod(partial, 0o666 & ~_umask())  # noqa: PTH101 - mkstemp's 0600 would hide results from the group
        publish(partial, path)
    except BaseException:
        with suppress(FileNotFoundError):
            partial.unlink()
        raise


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the file name to system errors that name no file, only the temporary one, or the source of a copy."""
    try:
        yield
    except OSError as error:
        named, temporary = str(error.filename or ""), str(path.parent / f".{path.name}.")
        is_full = error.errno in _FULL and str(error.filename2 or "").startswith(temporary)
        if error.errno is None or (named and not named.startswith(temporary) and not is_full):
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error


def publish(partial: Path, path: Path) -> None:
    """Rename `partial` to `path`, replacing any existing file, and sync both the file and its folder to disk."""
    for target in (partial, path.parent):
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            if target is partial:
                partial.replace(path)
        finally:
            os.close(descriptor)


def special_kind(path: Path) -> str:
    """Return the kind of a path that is not a regular file ("a folder", "a FIFO", ...); empty for a regular file.

    Links are followed.

    Raises:
        OSError: The path does not exist or cannot be reached.
    """
    mode = path.stat().st_mode
    return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "a special file")


def require_regular(path: Path) -> None:
    """Refuse a FIFO, device, socket or folder, and a large file that is nearly all holes: a reader may never end.

    Raises:
        OSError: The path is not a regular file, is larger than 1 GiB and less than 1/64 of it was ever written, does
            not exist or cannot be reached.
    """
    kind = special_kind(path)
    if kind:
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))
    size = path.stat().st_size
    if size > _LARGE_BYTES and not _has_data(path, size // _LARGEST_SHARE):
        raise OSError(errno.EINVAL, f"almost none of its {size:,} bytes were ever written", str(path))


_LARGE_BYTES, _LARGEST_SHARE = 1 << 30, 64


def _has_data(path: Path, wanted: int) -> bool:
    """Return whether a sparse file has at least `wanted` bytes that are not holes; True if the system cannot tell."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        found = end = 0
        while found < wanted:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
            found += end - start
    except OSError as error:
        return error.errno != errno.ENXIO  # there is no more data
    else:
        return True
    finally:
        os.close(descriptor)


def read_json(path: Path) -> Any:
    """Read a JSON file in UTF-8.

    Raises:
        OSError: It cannot be read, or is not a regular file.
        ValueError: It is not JSON, or is nested too deeply.
    """
    require_regular(path)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def make_folder(folder: Path) -> None:
    """Create the folder given with --out, including its parents.

    Raises:
        UsageError: It cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--out: {folder} cannot be created ({error}).", hint="Choose a folder that you can write to."
        ) from error


def remove_leftovers(path: Path, min_age_s: float = 0) -> None:
    """Remove the temporary files that killed writers of `path` left behind.

    Args:
        path: The file.
        min_age_s: Keep those that were written to more recently, where other commands may be writing `path` now.
    """
    for leftover in path.parent.glob(f".{path.name}.{'?' * _RANDOM_CHARACTERS}.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime >= min_age_s:
                leftover.unlink()


def remove_leftovers_of(folder: Path, names: Collection[str]) -> None:
    """Remove the temporary files that killed writers of these files in a folder left behind; lists the folder once.

    Args:
        folder: The folder; it may not exist.
        names: Names of the files. Those of other commands that write to the folder at the same time must not be among
            them.
    """
    try:
        found = os.listdir(folder)  # noqa: PTH208 - names are compared, thousands of them
    except OSError:
        return
    end = len("." + "?" * _RANDOM_CHARACTERS + ".tmp")
    for name in found:
        if name.startswith(".") and name.endswith(".tmp") and name[1:-end] in names and name[-end] == ".":
            with suppress(FileNotFoundError):
                (folder / name).unlink()


def claim_folder(folder: Path, names: Iterable[str], flag: str = "--out") -> None:
    """Create a folder for results and remove temporary files of killed writers, before any work starts.

    Raises:
        UsageError: The folder cannot be created or written to, or a folder has the name of one of the files.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # a folder that exists may still be read-only or full
            pass
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(
            f"{flag}: {folder} cannot be created: it, or one of its parents, is an existing file.",
            hint="Choose another folder, or rename the file.",
        ) from error
    except OSError as error:
        raise UsageError(
            f"{flag}: {folder} cannot be written to ({error}).", hint="Choose a folder that you can write to."
        ) from error
    for name in names:
        if (folder / name).is_dir():
            raise UsageError(
                f"{flag}: {folder / name} is a folder, but a file with this name must be written.",
                hint="Choose another output folder, or rename that one.",
            )
        remove_leftovers(folder / name)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows as UTF-8 CSV with a header, atomically; text that a spreadsheet would run is marked, see `cells`."""
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: mark_text(cell) for name, cell in row.items()} for row in rows)


def append_csv(path: Path, columns: Sequence[str], row: Mapping[str, object]) -> None:
    """Append a row to a CSV of `write_csv` and sync it to disk; on an error, the file is as it was.

    Raises:
        OSError: The row cannot be written; the message names `path`.
    """
    with _naming(path), path.open("r+b", buffering=0) as handle:
        end = handle.seek(0, os.SEEK_END)
        try:
            _append(handle, columns, row)
            os.fsync(handle.fileno())
        except OSError:
            handle.truncate(end)
            raise


def _append(handle: IO[bytes], columns: Sequence[str], row: Mapping[str, object]) -> None:
    text = io.StringIO(newline="")
    csv.DictWriter(text, columns, lineterminator="\n").writerow({name: mark_text(cell) for name, cell in row.items()})
    rest = memoryview(text.getvalue().encode())
    while rest:
        rest = rest[handle.write(rest) :]


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    require_regular(path)
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def is_url(location: Location) -> bool:
    """Return whether a location is a URL (`s3://bucket/a.svs`) and not a path."""
    return isinstance(location, str) and _URL.match(location) is not None


def open_location(location: Location) -> IO[bytes]:
    """Open a file or URL for reading.

    Raises:
        OSError: It cannot be opened.
        ImportError: fsspec, or what it needs for this kind of URL, is not installed.
    """
    if not is_url(location):
        return Path(location).open("rb")
    import fsspec

    opened: IO[bytes] = fsspec.open(str(location), "rb").open()
    return opened


def fingerprint(location: Location) -> str:
    """Identify a large file by its size and a digest of its first and last MiB: `<bytes>-<16 hex digits>`.

    Reading 2 MiB takes milliseconds; a full digest of a slide takes tens of seconds.
    """
    digest = hashlib.sha256()
    with open_location(location) as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(0)
        digest.update(handle.read(_FINGERPRINT_BYTES))
        handle.seek(max(0, size - _FINGERPRINT_BYTES))
        digest.update(handle.read())
    return f"{size}-{digest.hexdigest()[:16]}"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def working_folder() -> str:
    """Return the current folder, for a process that is to understand relative paths; empty if it was removed."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return ""
