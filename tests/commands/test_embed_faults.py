"""Faults of slides, disks and processes during a run."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from slpd_toolkit.commands import embed
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.guarded import Limits
from slpd_toolkit.slides import guarded_slide, reading
from slpd_toolkit.store.token_file import TokenFile, TokenStore
from slpd_toolkit.store.writer import TokenWriter
from tests.cohorts import (
    SMALL,
    as_flags,
    mean_colour_encoder,
    read_csv,
    small_config,
    write_cohort,
    write_manifest,
)
from tests.conftest import REPOSITORY
from tests.guarded_work import abort_at_s1, hang_at_s1
from tests.slide_factory import damage_tile, glass, tissue, tissue_on_glass, write_repeated_slide, write_slide
from tests.slides.mutants import OFFSETS, SIZES, TILE_WIDTH, Tiff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    Indices = npt.NDArray[np.intp]
    Floats = npt.NDArray[np.float32]

# The command itself, but for an encoder that is quick to build and slow enough to be interrupted at its work.
DRIVER = """
import sys, time
from slpd_toolkit.cli import app
from slpd_toolkit.commands import embed
from slpd_toolkit.encoders.encoder import Encoder
from tests.cohorts import tiny_vit_encoder
plain = Encoder.embed
def slow(self, pixels, precision):
    time.sleep(0.01)
    return plain(self, pixels, precision)
Encoder.embed = slow
embed.make_encoder = tiny_vit_encoder
app.main()
"""


@pytest.fixture
def mean_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "make_encoder", mean_colour_encoder)


def hidden(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.name.startswith("."))


def command(manifest: Path, out: Path, **changes: object) -> list[str]:
    settings = SMALL | {"batch_size": 4} | changes
    return [sys.executable, "-c", DRIVER, "embed", str(manifest), "--out", str(out), *as_flags(**settings)]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def start(manifest: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(manifest, out), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def bits(cache: Path) -> dict[str, bytes]:
    return {slide.meta.slide_id: slide.tokens.tobytes() for slide in TokenStore.open(cache).files}


@pytest.mark.slow
@pytest.mark.usefixtures("mean_colour")
def test_each_bad_slide_is_one_row_and_every_other_slide_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cohort(tmp_path, 2)
    whole = (tmp_path / "s0.tif").read_bytes()
    (tmp_path / "short.tif").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.svs").write_text("this is no slide\n" * 100)
    (tmp_path / "empty.svs").write_bytes(b"")
    (tmp_path / "folder.svs").mkdir()
    picture = tissue_on_glass(700, 900, [(100, 80, 640, 600)], mpp=1.0)
    write_slide(tmp_path / "no-mpp.tif", picture, mpp=None)
    write_slide(tmp_path / "artefact.tif", picture, mpp=264.6)
    write_slide(tmp_path / "oblong.tif", picture, mpp=(1.0, 1.2))
    os.mkfifo(tmp_path / "fifo.svs")
    aborts = Tiff(write_slide(tmp_path / "aborts.tif", picture, mpp=1.0).read_bytes())
    aborts.put_long(0, TILE_WIDTH, 256 | 1 << 25)
    (tmp_path / "aborts.tif").write_bytes(aborts.data)
    write_slide(tmp_path / "white.tif", glass(500, 500), mpp=1.0)
    damaged = write_slide(tmp_path / "damaged.tif", picture, mpp=1.0, downsamples=(4, 8), compression="jpeg")
    damage_tile(damaged, 5)
    bad = {  # slide_id: its file, and what the error and the hint must say
        "short": ("short.tif", "is not a slide that OpenSlide reads", "truncated"),
        "text": ("text.svs", r"text\.svs is not a slide that OpenSlide reads", "to a tiled TIFF"),
        "empty": ("empty.svs", r"empty\.svs is not a slide that OpenSlide reads", "truncated"),
        "folder": ("folder.svs", r"folder\.svs is a folder, not a slide file", "Enter the path of the slide file"),
        "absent": ("absent.svs", r"no such file: .*absent\.svs", "relative to the manifest or --slides-root"),
        "no-mpp": ("no-mpp.tif", "does not contain its resolution", "column `mpp`"),
        "artefact": ("artefact.tif", r"264\.6 x 264\.6 um/px; plausible values are 0\.1 to 5", "column `mpp`"),
        "oblong": ("oblong.tif", r"pixels of 1 x 1\.2 um", "cannot correct this"),
        "aborts": ("aborts.tif", r"aborts\.tif: tiles of 33554688 x 256 px", "damaged"),
        "fifo": ("fifo.svs", "is a FIFO, not a slide file", "Enter the path of the slide file"),
        "white": ("white.tif", "^no tissue found in 500 x 500 px", "--min-tissue 0"),
        "damaged": ("damaged.tif", r"level-0 \(.*\) cannot be decoded", "damaged"),
        "twice": (
            "s0.tif",
            r"^slide_id 'twice' occurs in rows 16, 20\.$",
            "^Make it unique: its token file has this name.$",
        ),
        "../out": ("s0.tif", "is not a valid file name", "letters, digits"),
        "far": ("s0.tif", "mpp is '0,5'", r"0\.1 to 5\.0 um/px"),
    }
    rows = [{"slide_id": name, "slide_path": path, "mpp": ""} for name, (path, _, _) in bad.items()]
    rows[-1]["mpp"] = "0,5"
    rows.insert(0, {"slide_id": "s0", "slide_path": "s0.tif"})
    rows.insert(-1, {"slide_id": "s1", "slide_path": "s1.tif"})
    rows.append({"slide_id": "twice", "slide_path": "s1.tif"})
    rows.insert(1, {"slide_id": "s2", "slide_path": "s1.tif"})
    manifest = write_manifest(tmp_path / "manifest.csv", rows)
    twice = [index + 2 for index, row in enumerate(rows) if row["slide_id"] == "twice"]
    assert twice == [16, 20]
    for left in (".s1.h5.abcdefgh.tmp", "qc/.s0.jpg.abcdefgh.tmp", "masks/.s0.png.abcdefgh.tmp"):  # by a killed run
        (tmp_path / "cache" / left).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cache" / left).touch()

    assert embed.run(small_config(manifest, tmp_path / "cache")) == 1
    failures = {row["slide_id"]: row for row in read_csv(tmp_path / "cache" / "failures.csv")}
    assert len(failures) == len(read_csv(tmp_path / "cache" / "failures.csv")) == len(bad)
    for name, (path, error, hint) in bad.items():
        row = failures[name]
        assert row["stage"] == "embed"
        assert row["path"].endswith(path)
        assert re.search(error, row["error"]), row
        assert re.search(hint, row["hint"]), row
    assert sorted(path.name for path in (tmp_path / "cache").glob("*.h5")) == ["s0.h5", "s1.h5", "s2.h5"]
    assert hidden(tmp_path / "cache") == []
    assert f"{len(bad)} slides failed" in capsys.readouterr().err

    good = write_manifest(tmp_path / "good.csv", [row for row in rows if row["slide_id"] in {"s0", "s1", "s2"}])
    assert embed.run(small_config(good, tmp_path / "clean")) == 0
    assert bits(tmp_path / "cache") == bits(tmp_path / "clean")


@pytest.mark.slow
@pytest.mark.usefixtures("mean_colour")
def test_a_slide_that_fails_while_other_threads_read_it_ends_alone(tmp_path: Path) -> None:
    """Many of its blocks are being read when the first one fails."""
    picture = tissue(2048, 2048, mpp=1.0)
    damage_tile(write_slide(tmp_path / "bad.tif", picture, mpp=1.0, compression="jpeg"), 0)
    write_slide(tmp_path / "good.tif", picture[:600, :600], mpp=1.0)
    names = ["good", "bad", "good2", "bad2"]
    rows = [{"slide_id": name, "slide_path": f"{name.rstrip('2')}.tif"} for name in names]
    manifest = write_manifest(tmp_path / "manifest.csv", rows)
    for attempt in range(3):
        cache = tmp_path / f"cache{attempt}"
        assert embed.run(small_config(manifest, cache, workers=8)) == 1
        assert [row["slide_id"] for row in read_csv(cache / "failures.csv")] == ["bad", "bad2"]
        assert sorted(path.name for path in cache.glob("*.h5")) == ["good.h5", "good2.h5"]
        assert hidden(cache) == []


@pytest.mark.usefixtures("mean_colour")
def test_tokens_that_are_not_finite_fail_their_slide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = TokenWriter.put

    def overflowing(self: TokenWriter, region: int, rows: Indices, columns: Indices, tokens: Floats) -> None:
        plain(self, region, rows, columns, tokens * (1e9 if self.path.stem == "s0" else 1))

    monkeypatch.setattr(TokenWriter, "put", overflowing)
    assert embed.run(small_config(write_cohort(tmp_path, 2), tmp_path / "cache")) == 1
    (failure,) = read_csv(tmp_path / "cache" / "failures.csv")
    assert failure["slide_id"] == "s0"
    assert "NaN, infinite or beyond float16" in failure["error"]
    assert [path.name for path in (tmp_path / "cache").glob("*.h5")] == ["s1.h5"]
    assert hidden(tmp_path / "cache") == []


@pytest.mark.usefixtures("mean_colour")
def test_tokens_that_become_zero_in_float16_fail_their_slide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = TokenWriter.put

    def tiny(self: TokenWriter, region: int, rows: Indices, columns: Indices, tokens: Floats) -> None:
        plain(self, region, rows, columns, tokens * np.float32(1e-12 if self.path.stem == "s0" else 1))

    monkeypatch.setattr(TokenWriter, "put", tiny)
    assert embed.run(small_config(write_cohort(tmp_path, 2), tmp_path / "cache")) == 1
    (failure,) = read_csv(tmp_path / "cache" / "failures.csv")
    assert "too small for float16, where they become zero" in failure["error"]


@pytest.mark.usefixtures("mean_colour")
def test_a_resolution_in_the_manifest_does_not_make_pixels_square(tmp_path: Path) -> None:
    picture = tissue_on_glass(700, 900, [(100, 80, 640, 600)], mpp=1.0)
    write_slide(tmp_path / "s.tif", picture, mpp=(1.0, 0.98))
    write_slide(tmp_path / "t.tif", picture, mpp=(1.0, 0.995))
    rows = [{"slide_id": name, "slide_path": f"{name}.tif", "mpp": "1.0"} for name in "st"]
    assert embed.run(small_config(write_manifest(tmp_path / "m.csv", rows), tmp_path / "cache")) == 1
    (failure,) = read_csv(tmp_path / "cache" / "failures.csv")
    assert failure["slide_id"] == "s"
    assert "pixels of 1 x 0.98 um; they must be square within 1%" in failure["error"]


@pytest.mark.slow
@pytest.mark.usefixtures("mean_colour")
@pytest.mark.parametrize("fault", ["absent", "swapped"])
def test_missing_pixels_fail_a_slide_or_get_no_token(
    tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tiles and patches have the same size, so that the affected patches are known."""
    picture = tissue_on_glass(1024, 1024, [(0, 0, 900, 900)], mpp=1.0)
    path = write_slide(tmp_path / "s.tif", picture, mpp=1.0, tile_px=64)
    whole = write_manifest(tmp_path / "m.csv", [{"slide_id": "s", "slide_path": "s.tif"}])
    assert embed.run(small_config(whole, tmp_path / "whole")) == 0
    sound = TokenFile.open(tmp_path / "whole" / "s.h5")
    file = Tiff(path.read_bytes())
    for tag in (OFFSETS, SIZES):
        values = file.get(0, tag)
        first, other = 16 * 2 + 3, 16 * 6 + 9
        values[first], values[other] = (0, 0) if fault == "absent" else (values[other], values[first])
        file.put(0, tag, values)
    path.write_bytes(file.data)
    assert embed.run(small_config(whole, tmp_path / "cache")) == 1
    (failure,) = read_csv(tmp_path / "cache" / "failures.csv")
    said = "4,096 pixels are missing from the file" if fault == "absent" else "1 patch differs"
    assert said in failure["error"]
    assert "--allow-missing-pixels" in failure["hint"]
    assert not list((tmp_path / "cache").glob("*.h5"))

    capsys.readouterr()
    assert embed.run(small_config(whole, tmp_path / "cache", allow_missing_pixels=True)) == 0
    assert "1 slide lacks pixels; 2 patches have no token: s (2)" in capsys.readouterr().err
    kept = TokenFile.open(tmp_path / "cache" / "s.h5")
    assert kept.present is not None
    lost = np.zeros_like(kept.present)
    lost[0, 2, 3] = lost[6, 2, 1] = True
    assert (kept.present == ~lost).all()
    assert (kept.tokens[~lost] == sound.tokens[~lost]).all()
    assert (kept.tokens[lost] == 0).all()
    assert (kept.tissue[lost] == 0).all()
    assert (kept.tissue[~lost] == sound.tissue[~lost]).all()


@pytest.mark.slow
@pytest.mark.usefixtures("mean_colour")
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        pytest.param(abort_at_s1, "crashed the process that read it: ended by signal SIGABRT", id="abort"),
        pytest.param(hang_at_s1, "was stopped: no progress within 5 s", id="hang", marks=pytest.mark.slow),
    ],
)
def test_a_slide_that_aborts_or_hangs_while_it_is_read_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., object], said: str
) -> None:
    manifest = write_cohort(tmp_path, 3)
    assert embed.run(small_config(manifest, tmp_path / "whole")) == 0
    monkeypatch.setattr(reading, "block", fault)
    monkeypatch.setattr(guarded_slide, "Limits", partial(Limits, cpu_s=5.0))
    assert embed.run(small_config(manifest, tmp_path / "cache")) == 1
    (failure,) = read_csv(tmp_path / "cache" / "failures.csv")
    assert failure["slide_id"] == "s1"
    assert said in failure["error"]
    assert hidden(tmp_path / "cache") == []
    monkeypatch.undo()
    monkeypatch.setattr(embed, "make_encoder", mean_colour_encoder)
    assert embed.run(small_config(manifest, tmp_path / "cache")) == 0
    assert bits(tmp_path / "cache") == bits(tmp_path / "whole")


def test_a_manifest_without_a_usable_row_stops_at_once(tmp_path: Path) -> None:
    rows = [{"slide_id": "a", "slide_path": "absent.svs"}, {"slide_id": "b", "slide_path": ""}]
    with pytest.raises(
        UsageError, match=r"has no usable slide:\n  row 2 \(a\): no such file.*\n  row 3 \(b\): slide_path is empty"
    ):
        embed.run(small_config(write_manifest(tmp_path / "manifest.csv", rows), tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Make the system reject writes beyond `size` bytes of a file, like a full disk or a quota."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
@pytest.mark.usefixtures("mean_colour")
@pytest.mark.parametrize("share", [*(pytest.param(share, marks=pytest.mark.slow) for share in (0.3, 0.6, 0.999)), 0.9])
def test_a_full_disk_fails_the_slide_that_does_not_fit(tmp_path: Path, share: float) -> None:
    """At any point of the file: in the header, in the tokens, or in the last bytes on closing."""
    picture = tissue_on_glass(300, 300, [(50, 50, 250, 250)], mpp=1.0)
    write_slide(tmp_path / "small.tif", picture, mpp=1.0)
    write_slide(tmp_path / "large.tif", tissue(1500, 1500, mpp=1.0), mpp=1.0)
    rows = [{"slide_id": name, "slide_path": f"{name[:5]}.tif"} for name in ("large", "small", "large2", "small2")]
    config = small_config(write_manifest(tmp_path / "m.csv", rows), tmp_path / "cache", qc=False, min_tissue=0.0)
    assert embed.run(config) == 0
    whole = bits(config.out)
    small, large = ((config.out / f"{name}.h5").stat().st_size for name in ("small", "large"))
    shutil.rmtree(config.out)
    with largest_file(int(small + (large - small) * share)):
        assert embed.run(config) == 1
    failures = read_csv(config.out / "failures.csv")
    assert [row["slide_id"] for row in failures] == ["large", "large2"]
    assert all("large" in row["error"] and "cannot be written" in row["error"] for row in failures)
    assert all("free space" in row["hint"] for row in failures)
    assert hidden(config.out) == []
    assert sorted(path.name for path in config.out.glob("*.h5")) == ["small.h5", "small2.h5"]
    assert embed.run(config) == 0
    assert bits(config.out) == whole


@pytest.mark.usefixtures("mean_colour")
def test_a_file_that_cannot_be_named_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last step of a slide: all tokens are written, but renaming fails."""
    replace = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if target.name == "s0.h5":
            raise OSError(28, "No space left on device", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    assert embed.run(small_config(write_cohort(tmp_path, 2), tmp_path / "cache")) == 1
    (failure,) = read_csv(tmp_path / "cache" / "failures.csv")
    assert failure["slide_id"] == "s0"
    assert "No space left on device" in failure["error"]
    assert [path.name for path in (tmp_path / "cache").glob("*.h5")] == ["s1.h5"]
    assert hidden(tmp_path / "cache") == []


@pytest.mark.slow
@pytest.mark.usefixtures("mean_colour")
def test_an_interrupt_leaves_no_unfinished_file_of_any_slide_that_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two slides are opened ahead of the one being read; they have files as well."""
    put = TokenWriter.put
    calls = []

    def interrupted(self: TokenWriter, region: int, rows: Indices, columns: Indices, tokens: Floats) -> None:
        calls.append(self.path.name)
        if self.path.name == "s1.h5":
            raise KeyboardInterrupt
        put(self, region, rows, columns, tokens)

    monkeypatch.setattr(TokenWriter, "put", interrupted)
    cache = tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        embed.run(small_config(write_cohort(tmp_path, 4), cache))
    assert calls[-1] == "s1.h5"
    assert hidden(cache) == []
    assert [path.name for path in cache.glob("*.h5")] == ["s0.h5"]
    assert read_csv(cache / "failures.csv") == []


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_says_so_and_leaves_no_litter(tmp_path: Path) -> None:
    manifest, cache = write_cohort(tmp_path, 4), tmp_path / "cache"
    process = start(manifest, cache)
    wait_for((cache / "s0.h5").exists, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Interrupted; completed work is kept" in said
    assert "Traceback" not in said
    assert hidden(cache) == []
    assert 1 <= len(list(cache.glob("*.h5"))) < 4
    for path in cache.glob("*.h5"):
        assert TokenFile.open(path).tokens.shape[1:] == (4, 4, 48)


@pytest.mark.slow
def test_kills_at_many_moments_leave_nothing_that_looks_complete_and_the_same_bits_in_the_end(tmp_path: Path) -> None:
    signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]
    manifest, cache = write_cohort(tmp_path, 4), tmp_path / "cache"
    subprocess.run(
        command(manifest, tmp_path / "whole"), env=environment(), check=True, capture_output=True, timeout=120
    )
    killed = 0
    for number, delay in zip(signals, [0.0, 0.02, 0.2, 0.45, 0.7], strict=True):
        process = start(manifest, cache)
        while process.poll() is None and not any(".h5." in name for name in hidden(cache)):
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(number)
        process.communicate(timeout=120)
        assert process.returncode in {-number, 0}  # 0: it was done already
        killed += process.returncode == -number
        assert all(np.isfinite(TokenFile.open(path).tokens).all() for path in cache.glob("*.h5"))
    assert killed >= 2
    subprocess.run(command(manifest, cache), env=environment(), check=True, capture_output=True, timeout=120)
    assert hidden(cache) == []
    assert bits(cache) == bits(tmp_path / "whole")


# For root permissions hold only without the two capabilities that override them.
AS_ORDINARY_USER = """
import ctypes, os, sys
prctl = getattr(ctypes.CDLL(None), "prctl", None)
for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    if prctl is not None and os.geteuid() == 0:
        prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.slow
def test_an_unreadable_slide_and_an_unwritable_folder_are_told(tmp_path: Path) -> None:
    manifest = write_cohort(tmp_path, 2)
    (tmp_path / "private").mkdir()
    shutil.copy(tmp_path / "s0.tif", tmp_path / "private" / "slide.tif")
    rows = [{"slide_id": f"s{index}", "slide_path": f"s{index}.tif"} for index in range(2)]
    write_manifest(manifest, [*rows, {"slide_id": "hidden", "slide_path": "private/slide.tif"}])
    (tmp_path / "s0.tif").chmod(0)
    (tmp_path / "locked").mkdir(mode=0o555)
    (tmp_path / "private").chmod(0)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", AS_ORDINARY_USER, *map(str, arguments)],
            env=environment(), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    if run("/bin/cat", tmp_path / "s0.tif").returncode == 0:
        pytest.skip("this user reads everything")
    try:
        done, refused = (run(*command(manifest, tmp_path / out)) for out in ("out", "locked"))
    finally:
        (tmp_path / "private").chmod(0o755)
    assert done.returncode == 1, done.stderr
    failures = {row["slide_id"]: row for row in read_csv(tmp_path / "out" / "failures.csv")}
    assert failures.keys() == {"s0", "hidden"}
    assert "ermission denied" in failures["s0"]["error"]
    assert "permission" in failures["s0"]["hint"]
    assert "is not accessible (Permission denied)" in failures["hidden"]["error"]
    assert [path.name for path in (tmp_path / "out").glob("*.h5")] == ["s1.h5"]
    assert refused.returncode in {1, 2}
    assert "locked" in refused.stderr
    assert "ermission denied" in refused.stderr
    assert "Traceback" not in done.stderr + refused.stderr


@pytest.mark.slow
def test_a_full_file_system_ends_with_a_message(tmp_path: Path) -> None:
    """A real file system of 1 MiB. If mounting is not allowed, the file-size limit above must suffice."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode:
        pytest.skip("mounting a file system is not allowed here")
    try:
        write_slide(tmp_path / "large.tif", tissue(2000, 2000, mpp=1.0), mpp=1.0)
        write_slide(tmp_path / "small.tif", tissue(400, 400, mpp=1.0), mpp=1.0)
        rows = [{"slide_id": name, "slide_path": f"{name[:5]}.tif"} for name in ("large", "small")]
        manifest = write_manifest(tmp_path / "m.csv", rows)
        done = subprocess.run(
            [*command(manifest, disk / "cache"), "--patch-px", "16", "--no-qc"],
            env=environment(), capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert [row["slide_id"] for row in read_csv(disk / "cache" / "failures.csv")] == ["large"]
        assert [path.name for path in (disk / "cache").glob("*.h5")] == ["small.h5"]
        assert hidden(disk / "cache") == []
        (disk / "filler").write_bytes(b"")
        with (disk / "filler").open("r+b", buffering=0) as filler, suppress(OSError):
            while filler.write(bytes(4096)):
                pass
        full = subprocess.run(
            command(manifest, disk / "other"),
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert full.returncode in {1, 2}
        assert "Traceback" not in full.stderr
        assert "No space left" in full.stderr
    finally:
        subprocess.run(["umount", disk], check=True)


MEMORY = """
import sys
from pathlib import Path
from slpd_toolkit.commands import embed
from tests.cohorts import mean_colour_encoder, small_config
embed.make_encoder = mean_colour_encoder
def peak():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) // 1024
before = peak()
config = small_config(Path(sys.argv[1]), Path(sys.argv[2]), mpp=0.5, region_px=4096, patch_px=256, batch_size=32,
                      workers=int(sys.argv[3]), min_tissue=0.0)
assert embed.run(config) == 0
print(peak() - before)
"""


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
@pytest.mark.parametrize(("tiles", "downsamples", "mpp"), [(79, (4, 16), 0.25), (40, (), 0.5)])
def test_memory_is_bounded_for_a_slide_of_40_000_px(
    tmp_path: Path, tiles: int, downsamples: tuple[int, ...], mpp: float
) -> None:
    tile = glass(512, 512)  # blank, because only blank tiles may share their data
    write_repeated_slide(tmp_path / "huge.tif", tile, tiles, mpp=mpp, downsamples=downsamples)
    manifest = write_manifest(tmp_path / "m.csv", [{"slide_id": "huge", "slide_path": "huge.tif"}])
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, manifest, tmp_path / "cache", "8"],
        env=environment(), capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    file = TokenFile.open(tmp_path / "cache" / "huge.h5")
    assert (file.meta.slide_width_l0, file.meta.slide_height_l0) == (tiles * 512, tiles * 512)
    assert len(file) == 25
    assert (tmp_path / "cache" / "qc" / "huge.jpg").is_file()
    assert int(done.stdout.split()[-1]) < 1500  # MiB
