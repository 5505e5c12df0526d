"""Locks that let only one command at a time write to a results folder or a file.

The lock is `flock` on a hidden file in the folder, which also records who holds it. The kernel releases it when the
process ends for any reason, so that neither a killed run nor a reused process ID blocks the next one. flock works
between hosts on NFS and on most cluster file systems. If it is not supported, or local to a host, the contents of the
file decide: its owner rewrites them every few seconds, and an owner on another host that has not done so for two
intervals is considered dead. Clocks are never compared.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import wraps
from operator import attrgetter
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, TypeVar

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import claim_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Config = TypeVar("Config")

LOCK = ".slpd-lock"
BEAT_S = 4.0
"""Interval at which an owner updates its record to show that it is alive, seconds."""

_HINT_FOLDER = (
    "Wait until it ends, stop it, or use another folder. Jobs of `slpd embed` can share a folder with --shard."
)
_SETTLE_S = 0.5
_RECORD_BYTES = 1024  # fixed size, so that updates need no space if the disk has become full
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Owner:
    """The process that uses a folder."""

    command: str
    host: str
    machine: str
    """ID of the host since its last boot; the same in all containers of a host."""
    pid: int
    since: str
    """Local time, ISO 8601."""
    token: str
    """Unique ID of the owner."""
    beat: int = 0
    """Counter that increases while the owner is alive."""

    def __str__(self) -> str:
        return f"`slpd {self.command}`, process {self.pid} on {self.host}, since {self.since}"


class _InUseError(Exception):
    def __init__(self, owner: Owner | None) -> None:
        super().__init__()
        self.owner = owner


@contextmanager
def working_in(folder: Path, command: str, part: tuple[int, int] = (1, 1)) -> Iterator[None]:
    """Create a results folder and lock it against other commands until the block ends.

    If the block raises an exception, folders that were created by this call and are still empty are removed.

    Args:
        folder: The folder.
        command: Name of the command, for the messages of other processes: `embed`.
        part: (i, n): this is job i of n that share the folder. It excludes a second job i and any job that is not one
            of the n.

    Raises:
        UsageError: Another process uses the folder, or the folder is not writable.
    """
    made = _absent(folder)
    claim_folder(folder, ())
    path = folder / (LOCK if part == (1, 1) else f"{LOCK}.{part[0]}-of-{part[1]}")
    try:
        with _holding(path, command, folder, _HINT_FOLDER):
            yield
        made.clear()
    finally:
        for parent in made:
            with suppress(OSError):
                parent.rmdir()


@contextmanager
def writing_to(file: Path, command: str) -> Iterator[None]:
    """Lock a file that a command writes against other commands that write it, until the block ends.

    Args:
        file: The file, in a folder that exists.
        command: Name of the command, for the messages of other processes.

    Raises:
        UsageError: Another process writes the file, or its folder is not writable.
    """
    claim_folder(file.parent, ())
    with _holding(file.with_name(f".{file.name}{LOCK}"), command, file, "Wait until it ends, or write another file."):
        yield


@contextmanager
def _holding(path: Path, command: str, of: Path, hint: str) -> Iterator[None]:
    """Hold the lock file `path` of the folder or file `of`."""
    lock = None
    try:
        lock = _Lock(path, command)
        if path.name.startswith(LOCK):
            _require_free(other for other in path.parent.glob(f"{LOCK}*") if _excludes(path, other))
        yield
    except _InUseError as error:
        who = str(error.owner) if error.owner is not None else "another process, which has just started"
        raise UsageError(f"{of} is in use: {who}.", hint=hint) from None
    finally:
        if lock is not None:
            lock.release()


def locks_folder(
    command: str,
    folder: Callable[[Any], Path] = attrgetter("out"),
    part: Callable[[Any], tuple[int, int]] = lambda _: (1, 1),
) -> Callable[[Callable[[Config], int]], Callable[[Config], int]]:
    """Decorate `run(config)` of a command, so that it locks its results folder while it runs; see `working_in`.

    Args:
        command: Name of the command.
        folder: Returns the results folder, given the settings.
        part: Returns (i, n) for job i of n that share the folder, given the settings.
    """

    def decorate(run: Callable[[Config], int]) -> Callable[[Config], int]:
        @wraps(run)
        def alone(config: Config) -> int:
            with working_in(folder(config), command, part(config)):
                return run(config)

        return alone

    return decorate


@contextmanager
def taking_turns(folder: Path) -> Iterator[bool]:
    """Run the block while no other process runs one for the same folder; for a file that several commands may write.

    Yields:
        Whether the folder could be locked; NFS, for example, cannot lock folders.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            locked = True
        except OSError:
            locked = False
        yield locked
    finally:
        os.close(descriptor)


def is_lock(path: Path) -> bool:
    """Whether a file is the lock file of its folder or of another file, which a killed command may leave behind."""
    return path.name.startswith(LOCK) or (path.name.startswith(".") and path.name.endswith(LOCK))


class _Lock:
    """An exclusive lock on a file that contains its owner.

    Raises:
        _InUseError: Another process holds it.
    """

    def __init__(self, path: Path, command: str) -> None:
        self._path, self._done = path, Event()
        self._owner = Owner(
            command,
            socket.gethostname(),
            _machine(),
            os.getpid(),
            datetime.now().astimezone().isoformat(timespec="seconds"),
            secrets.token_hex(8),
        )
        self._descriptor, certain = _open_locked(path)
        try:
            self._write(0)
            if not certain:
                self._require_own()
        except BaseException:
            os.close(self._descriptor)
            raise
        self._thread = Thread(target=self._beat, daemon=True, name="folder lock")
        self._thread.start()

    def release(self) -> None:
        """Remove the file and release the lock."""
        self._done.set()
        self._thread.join()
        with suppress(OSError):
            found = _read(self._descriptor)
            if found is not None and found.token == self._owner.token and _is_still(self._descriptor, self._path):
                self._path.unlink()
        os.close(self._descriptor)

    def _require_own(self) -> None:
        """If two processes start at the same time without flock, the one that writes last keeps the lock."""
        time.sleep(_SETTLE_S)
        found = _read(self._descriptor)
        if found is None or found.token != self._owner.token:
            raise _InUseError(found)

    def _beat(self) -> None:
        beat = 0
        while not self._done.wait(BEAT_S):
            beat += 1
            with suppress(OSError):
                self._write(beat)

    def _write(self, beat: int) -> None:
        record = json.dumps(asdict(self._owner) | {"beat": beat}).encode()
        os.pwrite(self._descriptor, record.ljust(_RECORD_BYTES), 0)
        os.fsync(self._descriptor)


def _open_locked(path: Path) -> tuple[int, bool]:
    """Open a lock file and lock it.

    Returns:
        The descriptor, and whether the lock certainly excludes other processes of this host.

    Raises:
        _InUseError: Another process holds it.
    """
    while True:
        descriptor = _open(path)
        try:
            certain = _try_lock(descriptor)
            found = _read(descriptor)
            if found is not None and not (certain and found.machine == _machine()):
                _require_silent([path])
            if _is_still(descriptor, path):
                return descriptor, certain
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its owner has removed the file in the meantime


def _open(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:  # another user of the group left it behind or holds it
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _try_lock(descriptor)
            path.unlink()
        finally:
            os.close(descriptor)
        return _open(path)
    with suppress(OSError):
        os.fchmod(descriptor, 0o666)
    return descriptor


def _try_lock(descriptor: int) -> bool:
    """Lock a file, or return False if its file system does not support locks.

    Raises:
        _InUseError: Another process holds it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise _InUseError(_read_soon(descriptor)) from None
    except OSError:
        return False
    return True


def _require_free(paths: Iterable[Path]) -> None:
    """Check that none of these lock files is held by a process.

    Raises:
        _InUseError: One is.
    """
    doubtful = []
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            certain = _try_lock(descriptor)
            found = _read(descriptor)
            if found is not None and not (certain and found.machine == _machine()):
                doubtful.append(path)
        finally:
            os.close(descriptor)
    _require_silent(doubtful)


def _require_silent(paths: list[Path]) -> None:
    """Wait for two intervals, and check that no owner of these lock files updates its record.

    Raises:
        _InUseError: One does.
    """
    before = {path: _peek(path) for path in paths}
    owners = [owner for owner in before.values() if owner is not None]
    if not owners:
        return
    console.note(f"Checking for {2 * BEAT_S:.0f} s whether another process is still running: {owners[0]}.")
    end = time.monotonic() + 2 * BEAT_S + _SETTLE_S
    while time.monotonic() < end:
        time.sleep(min(1.0, BEAT_S / 4))
        for path, owner in before.items():
            found = _peek(path)
            if found is not None and found != owner:
                raise _InUseError(found)


def _peek(path: Path) -> Owner | None:
    """Read the owner after reopening the file, so that NFS asks the server instead of its cache."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _read(descriptor)
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> Owner | None:
    """Read the owner; None if the file is empty or has other contents."""
    try:
        return Owner(**json.loads(os.pread(descriptor, _RECORD_BYTES, 0)))
    except (OSError, ValueError, TypeError):
        return None


def _read_soon(descriptor: int) -> Owner | None:
    """Read the owner of a lock that is held, waiting briefly if its holder has not written its record yet."""
    for _ in range(10):
        found = _read(descriptor)
        if found is not None:
            return found
        time.sleep(_SETTLE_S / 10)
    return None


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether `path` is still the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _excludes(own: Path, other: Path) -> bool:
    """Whether two lock files exclude each other; those of different jobs of the same division do not."""
    division = own.name.rpartition("-of-")[2] if own.name != LOCK else ""
    same_division = bool(division) and other.name.endswith(f"-of-{division}")
    return other != own and not same_division


def _machine() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return socket.gethostname()


def _absent(folder: Path) -> list[Path]:
    """Return the folder and its parents that do not exist, innermost first."""
    try:
        return [path for path in (folder, *folder.parents) if not path.exists()]
    except OSError:  # it exists but is not accessible; `claim_folder` reports the reason
        return []
