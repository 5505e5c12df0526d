"""Writing files so that a file that exists is complete, and telling files apart by their content."""

import csv
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from slpd_toolkit.core.errors import UsageError

SLIDE_ID = re.compile(r"[A-Za-z0-9._-]+")
_FINGERPRINT_BYTES = 1 << 20
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_RANDOM_CHARACTERS = 8  # in the names that `tempfile` gives


def is_safe_name(name: str) -> bool:
    """Whether `name` may become a file name: `[A-Za-z0-9._-]+`, and neither hidden nor a way out of the folder."""
    return SLIDE_ID.fullmatch(name) is not None and not name.startswith(".")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a hidden sibling of `path` to write to; on success it is synced to disk and replaces `path`.

    A crash at any moment, kill -9 and power loss included, leaves either the old file or the new one. On an exception
    the sibling is removed. Siblings of a process that was killed are named `.<name>.<random>.tmp`: see
    `remove_leftovers`.

    Raises:
        OSError: The disk refuses (full, quota, read-only); the message names `path`.
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
    """Put the file into errors of the system that name none, or only a file that is gone by then."""
    try:
        yield
    except OSError as error:
        named = str(error.filename or "")
        if error.errno is None or (named and not named.startswith(str(path.parent / f".{path.name}."))):
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error


def publish(partial: Path, path: Path) -> None:
    """Sync `partial` and its folder to disk and give it the name `path`, replacing what was there."""
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


def make_folder(folder: Path) -> None:
    """Make the folder that --out names, and those above it.

    Raises:
        UsageError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--out: {folder} cannot be made ({error}).", hint="Choose a folder that you may write to."
        ) from error


def remove_leftovers(path: Path) -> None:
    """Remove the hidden siblings that killed writers of `path` left behind, and no other file's."""
    for leftover in path.parent.glob(f".{path.name}.{'?' * _RANDOM_CHARACTERS}.tmp"):
        leftover.unlink(missing_ok=True)


def claim_folder(folder: Path, names: Iterable[str], flag: str = "--out") -> None:
    """Make a folder for results, and clear away what killed writers of these files left: before the work, not after.

    Raises:
        UsageError: It cannot be made or written to, or a folder bears the name of a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # a folder that exists may still be read-only or full
            pass
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(
            f"{flag}: {folder} cannot be made: there is a file of that name, or in its path.",
            hint="Choose another folder, or rename the file.",
        ) from error
    except OSError as error:
        raise UsageError(
            f"{flag}: {folder} cannot be written to ({error}).", hint="Choose a folder that you may write to."
        ) from error
    for name in names:
        if (folder / name).is_dir():
            raise UsageError(
                f"{flag}: {folder / name} is a folder; a file is to be written there.",
                hint="Choose another folder for results, or rename that one.",
            )
        remove_leftovers(folder / name)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows as UTF-8 CSV with a header, atomically."""
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fingerprint(path: Path) -> str:
    """Tell a multi-gigabyte file from another by its size, first and last MiB: `<bytes>-<16 hex digits>`.

    Reading 2 MiB costs milliseconds where a full digest of a slide costs tens of seconds.
    """
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        digest.update(handle.read(_FINGERPRINT_BYTES))
        handle.seek(max(0, size - _FINGERPRINT_BYTES))
        digest.update(handle.read())
    return f"{size}-{digest.hexdigest()[:16]}"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
