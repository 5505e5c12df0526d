"""The slides of a cache whose token files can be read; the others are listed, and do not end a command."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import CacheError
from slpd_toolkit.core.failures import FILENAME, Failure, FailureLog
from slpd_toolkit.core.text import agree, count
from slpd_toolkit.store.token_file import TokenFile, TokenStore, open_token_files, token_paths

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class SoundSlides(NamedTuple):
    """The slides of a cache that can be read, and what is wrong with the others."""

    store: TokenStore
    failures: list[Failure]
    """More may be added while regions are embedded."""


def open_sound(folder: Path, stage: str) -> SoundSlides:
    """Open all token files of a cache that can be opened.

    Raises:
        CacheError: There are no token files, none can be opened, or they do not match one another.
    """
    paths = token_paths(folder)
    failures, files = list[Failure](), list[TokenFile]()
    for path, found in zip(paths, open_token_files(folder, paths), strict=True):
        if isinstance(found, CacheError):
            failures.append(Failure.of(stage, path.stem, path, found))
        else:
            files.append(found)
    return SoundSlides(TokenStore(files, folder) if files else TokenStore.open(folder), failures)


def without_damaged(store: TokenStore, failures: list[Failure], stage: str) -> TokenStore:
    """Return a store without the slides whose tokens fail their checksum, which are added to `failures`.

    Raises:
        CacheError: No slide is left; the error of the first.
    """
    sound = list[TokenFile]()
    first: CacheError | None = None
    for file in store.files:
        try:
            file.verify()
            sound.append(file)
        except CacheError as error:
            first = first or error
            failures.append(Failure.of(stage, file.meta.slide_id, file.path, error))
    if first is not None and not any(map(len, sound)):
        raise first
    return TokenStore(sound, store.folder)


def report_failures(out: Path, failures: Sequence[Failure]) -> int:
    """List failed slides in failures.csv in a folder, or next to a file; without failures, remove an earlier list.

    Returns:
        The exit code: 1 if there are failures, otherwise 0.
    """
    path = out / FILENAME if out.is_dir() else out.with_name(f"{out.name}.{FILENAME}")
    if not failures:
        path.unlink(missing_ok=True)
        return 0
    log = FailureLog(path)
    for failure in failures:
        log.add(failure)
    console.warn(
        f"{count(len(log), 'slide')} could not be read and {agree(len(log), 'is', 'are')} left out: see {path}."
    )
    return 1
