"""Copies of slides on a fast disk: ahead of reading, within a bound, and gone afterwards."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from slpd_toolkit.commands import embed
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.manifest import SlideEntry
from slpd_toolkit.ingest.embedding import slide_job
from slpd_toolkit.ingest.embedding.staging import Stage, remove_abandoned
from slpd_toolkit.slides.guarded_slide import GuardedSlide
from slpd_toolkit.store.token_file import TokenStore
from tests.cohorts import mean_colour_encoder, read_csv, small_config, write_cohort

if TYPE_CHECKING:
    from slpd_toolkit.core.files import Location

KIB = 1024


def entries(folder: Path, sizes: list[int]) -> list[SlideEntry]:
    found = []
    for index, size in enumerate(sizes):
        path = folder / f"s{index}.svs"
        path.write_bytes(bytes([index]) * size)
        found.append(SlideEntry(index, f"s{index}", path, f"s{index}", None))
    return found


def test_copies_are_ahead_within_the_bound_and_gone_when_released(tmp_path: Path) -> None:
    slides = entries(tmp_path, [4 * KIB, 4 * KIB, 4 * KIB, 40 * KIB, 4 * KIB])
    with Stage(tmp_path / "ssd", 9 * KIB) as stage:
        staged = []
        for entry in stage.ahead(slides, lambda entry: entry.slide_id != "s4"):
            path = stage.path(entry)
            staged.append(path != entry.slide_path)
            assert Path(path).read_bytes() == Path(entry.slide_path).read_bytes()
            stage.release(entry)
            assert stage.used_bytes <= 9 * KIB
        assert staged[:2] == [True, True]
        assert staged[3:] == [False, False]  # too large; not needed
        assert 4 * KIB <= stage.peak_bytes <= 9 * KIB
        assert stage.used_bytes == 0
    assert list((tmp_path / "ssd").iterdir()) == []


def test_slides_of_several_files_are_copied_whole(tmp_path: Path) -> None:
    (tmp_path / "a.mrxs").write_bytes(b"x")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Data0.dat").write_bytes(b"yy")
    entry = SlideEntry(1, "a", tmp_path / "a.mrxs", "a", None)
    with Stage(tmp_path / "ssd", KIB) as stage:
        list(stage.ahead([entry], lambda _: True))
        path = stage.path(entry)
        assert path != entry.slide_path
        assert (path.parent / "a" / "Data0.dat").read_bytes() == b"yy"  # type: ignore[union-attr]


def test_what_cannot_be_copied_is_read_where_it_is(tmp_path: Path) -> None:
    entry = SlideEntry(1, "a", tmp_path / "absent.svs", "a", None)
    with Stage(tmp_path / "ssd", KIB) as stage:
        list(stage.ahead([entry], lambda _: True))
        assert stage.path(entry) == entry.slide_path
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--stage-to"):
        Stage(tmp_path / "file", KIB)


def test_copies_go_when_their_process_is_killed(tmp_path: Path) -> None:
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; from pathlib import Path; from slpd_toolkit.ingest.embedding.staging "
        f"import Stage; s = Stage(Path({str(tmp_path / 'ssd')!r}), 9); (s.folder / 'x').write_text('x'); "
        "print('ready', flush=True); input()"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.readline()
    (folder,) = (tmp_path / "ssd").iterdir()
    remove_abandoned(tmp_path / "ssd")
    assert (folder / "x").exists()  # its process lives
    process.kill()
    process.communicate()
    for _ in range(200):
        if not folder.exists():
            break
        time.sleep(0.05)
    assert not folder.exists()
    (tmp_path / "ssd" / "slpd-stage-old").mkdir()
    remove_abandoned(tmp_path / "ssd")
    assert list((tmp_path / "ssd").iterdir()) == []


@pytest.mark.slow
def test_the_same_cache_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "make_encoder", mean_colour_encoder)
    manifest = write_cohort(tmp_path, 2)
    with manifest.open("a") as file:
        file.write("broken,manifest.csv\n")
    opened: list[Location] = []

    def watched(readers: Any, path: Location, mpp: float | None) -> GuardedSlide:
        opened.append(path)
        return GuardedSlide(readers, path, mpp)

    assert embed.run(small_config(manifest, tmp_path / "plain")) == 1
    monkeypatch.setattr(slide_job, "GuardedSlide", watched)
    assert embed.run(small_config(manifest, tmp_path / "staged", stage_to=tmp_path / "ssd")) == 1
    assert len(opened) == 3
    assert all(tmp_path / "ssd" in path.parents for path in opened)  # type: ignore[union-attr]
    assert list((tmp_path / "ssd").iterdir()) == []
    (failure,) = read_csv(tmp_path / "staged" / "failures.csv")
    assert failure["path"] == str(tmp_path / "manifest.csv")
    one, two = TokenStore.open(tmp_path / "plain"), TokenStore.open(tmp_path / "staged")
    for a, b in zip(one.files, two.files, strict=True):
        assert np.array_equal(a.tokens.view(np.uint16), b.tokens.view(np.uint16))
        assert a.meta.slide_fingerprint == b.meta.slide_fingerprint
    opened.clear()
    assert embed.run(small_config(manifest, tmp_path / "staged", stage_to=tmp_path / "ssd")) == 1
    assert sum(tmp_path / "ssd" in path.parents for path in opened) == 1  # type: ignore[union-attr]
