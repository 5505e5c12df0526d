"""Slides on slow shares: copied to a fast local disk ahead of reading, within a size limit, and removed when done.

The copies are in a folder of this process, which a helper process removes as soon as this one has ended for any
reason. Folders that remain nevertheless are removed by the next run.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from slpd_toolkit.core import console
from slpd_toolkit.core.closing import ClosedOnExit
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import is_url, open_location
from slpd_toolkit.core.text import count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from slpd_toolkit.core.files import Location
    from slpd_toolkit.core.manifest import SlideEntry

_PREFIX, _LOCK = "slpd-stage-", ".lock"
_AHEAD = 3
"""Slides that are copied ahead of those that are open."""
_CHUNK_BYTES = 8 << 20
_RESERVE = 0.05
"""Share of the disk that stays free."""
_CLEANER = "import shutil, sys; sys.stdin.read(); shutil.rmtree(sys.argv[1], ignore_errors=True)"
_SEVERAL_FILES = frozenset({".vms", ".vmu", ".ngr", ".vsi"})
"""Formats whose files are not copied, because which belong together is only known inside them."""


@dataclass(frozen=True)
class _Copy:
    path: Location
    """The copy, or the slide itself where it was not copied."""
    bytes: int = 0
    folder: Path | None = None


class Stage(ClosedOnExit):
    """Copies of slides on a fast disk. A context manager.

    Args:
        folder: A folder of that disk.
        bound_bytes: Maximum total size of the copies; 0: half of the space that is free now.
        share: Number of processes that share the bound.

    Raises:
        UsageError: The folder cannot be written to.
    """

    def __init__(self, folder: Path, bound_bytes: int, share: int = 1) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_abandoned(folder)
            self.bound_bytes = (bound_bytes or shutil.disk_usage(folder).free // 2) // share
            self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
            self._lock_file = _lock(self.folder)
        except OSError as error:
            raise UsageError(
                f"--stage-to: {folder} cannot be used ({error}).", hint="Choose a local folder."
            ) from error
        assert self._lock_file is not None
        self._cleaner = subprocess.Popen(  # noqa: S603 - this interpreter
            [sys.executable, "-S", "-c", _CLEANER, str(self.folder)], stdin=subprocess.PIPE, start_new_session=True
        )
        self._copier = ThreadPoolExecutor(1, thread_name_prefix="slide-copier")
        self._copies: dict[str, Future[_Copy]] = {}
        self._mutex, self._closed = threading.Lock(), threading.Event()
        self.used_bytes = self.peak_bytes = self.copied = 0

    def close(self) -> None:
        """Stop copying and remove all copies."""
        self._closed.set()
        self._copier.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock_file.close() if self._lock_file else None
        assert self._cleaner.stdin is not None
        self._cleaner.stdin.close()
        self._cleaner.wait()

    def ahead(self, entries: Iterable[SlideEntry], needed: Callable[[SlideEntry], bool]) -> Iterator[SlideEntry]:
        """Yield entries, and begin to copy a few beyond the one that is yielded.

        Args:
            entries: The slides; consumed a few ahead.
            needed: Whether a slide will be read as a whole; others are not copied.
        """
        waiting: deque[SlideEntry] = deque()
        for entry in entries:
            if needed(entry):
                self._copies[entry.slide_id] = self._copier.submit(self._copy, entry)
            waiting.append(entry)
            if len(waiting) > _AHEAD:
                yield waiting.popleft()
        yield from waiting

    def path(self, entry: SlideEntry) -> Location:
        """Return the copy of a slide, after waiting for it; or the slide itself if the copy would not fit."""
        copy = self._copies.get(entry.slide_id)
        return entry.slide_path if copy is None else copy.result().path

    def release(self, entry: SlideEntry) -> None:
        """Remove the copy of a slide that is done."""
        future = self._copies.pop(entry.slide_id, None)
        if future is None or not future.done():
            return
        copy = future.result()
        if copy.folder is not None:
            shutil.rmtree(copy.folder, ignore_errors=True)
            with self._mutex:
                self.used_bytes -= copy.bytes

    def summary(self) -> str:
        """Describe what was copied."""
        most = console.human_bytes(self.peak_bytes)
        return f"Copied {count(self.copied, 'slide')} to {self.folder.parent}, at most {most} at the same time."

    def _copy(self, entry: SlideEntry) -> _Copy:
        """Copy a slide if it fits."""
        folder, size = None, 0
        try:
            files = _files_of(entry.slide_path)
            size = sum(_size(file) for file, _ in files)
            if not files or not self._reserve(size):
                return _Copy(entry.slide_path)
            folder = Path(tempfile.mkdtemp(dir=self.folder))
            for file, name in files:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                self._transfer(file, target)
        except Exception as error:  # noqa: BLE001 - the slide is then read where it is, which says what is wrong with it
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
                with self._mutex:
                    self.used_bytes -= size
                console.warn(
                    f"{entry.slide_id} is read from its original location, because it could not be copied ({error})."
                )
            return _Copy(entry.slide_path)
        self.copied += 1
        return _Copy(folder / files[0][1], size, folder)

    def _reserve(self, size: int) -> bool:
        disk = shutil.disk_usage(self.folder)
        with self._mutex:
            if self.used_bytes + size > self.bound_bytes or disk.free - size < _RESERVE * disk.total:
                return False
            self.used_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.used_bytes)
            return True

    def _transfer(self, file: Location, target: Path) -> None:
        with open_location(file) as source, target.open("wb") as copy:
            while chunk := source.read(_CHUNK_BYTES):
                if self._closed.is_set():
                    raise InterruptedError("the run has ended")
                copy.write(chunk)


def remove_abandoned(folder: Path) -> None:
    """Remove the copies of processes that have ended without removing them."""
    for old in folder.glob(f"{_PREFIX}*"):
        lock = _lock(old)
        if lock is not None:
            shutil.rmtree(old, ignore_errors=True)
            lock.close()


def _lock(folder: Path) -> IO[bytes] | None:
    """Hold the lock of a folder of copies as long as the file is open; None if another process holds it."""
    file = (folder / _LOCK).open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def _files_of(slide: Location) -> list[tuple[Location, str]]:
    """Return the files that make up a slide, the one to open first, with their names in the copy; empty if unknown."""
    if is_url(slide):
        return [(slide, str(slide).rstrip("/").rpartition("/")[2].partition("?")[0] or "slide")]
    path = Path(slide)
    suffix = path.suffix.lower()
    if suffix in _SEVERAL_FILES:
        return []
    found: list[Path] = [path]
    if suffix == ".mrxs":
        found += sorted(file for file in path.with_suffix("").rglob("*") if file.is_file())
    elif suffix in {".dcm", ""}:
        found += sorted(file for file in path.parent.iterdir() if file.is_file() and file != path)
    return [(file, str(file.relative_to(path.parent))) for file in found]


def _size(file: Location) -> int:
    if not is_url(file):
        return Path(file).stat().st_size
    with open_location(file) as handle, suppress(OSError):
        return handle.seek(0, os.SEEK_END)
    return 0
