"""Several devices: the same cache as with one, also where a process is killed."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from slpd_toolkit.commands import embed
from slpd_toolkit.core import compute
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.ingest.embedding import devices, fleet
from slpd_toolkit.store.token_file import TokenStore
from tests.cohorts import read_csv, small_config, write_cohort

if TYPE_CHECKING:
    from pathlib import Path


def settings(manifest: Path, out: Path, **changes: Any) -> Any:
    return small_config(manifest, out, encoder=("random:vit_tiny",), workers=2, **changes)


def require_same(one: Path, two: Path) -> None:
    first, second = TokenStore.open(one), TokenStore.open(two)
    assert first.slide_ids == second.slide_ids
    for a, b in zip(first.files, second.files, strict=True):
        assert np.array_equal(a.tokens.view(np.uint16), b.tokens.view(np.uint16))
        assert np.array_equal(a.tissue, b.tissue)
        assert replace(a.meta, recipe="") == replace(b.meta, recipe="")


@pytest.mark.slow
def test_two_devices_write_the_cache_of_one_and_a_kill_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = write_cohort(tmp_path, 4)
    with manifest.open("a") as file:
        file.write("bad,absent.tif\nbroken,manifest.csv\n")
    assert embed.run(settings(manifest, tmp_path / "one")) == 1
    assert embed.run(settings(manifest, tmp_path / "two", device="cpu,cpu")) == 1
    require_same(tmp_path / "one", tmp_path / "two")
    for name in ("one", "two"):
        assert sorted(row["slide_id"] for row in read_csv(tmp_path / name / "failures.csv")) == ["bad", "broken"]
    assert (tmp_path / "two" / "qc" / "index.html").exists()

    killed: list[int] = []
    handle = fleet.Fleet._handle

    def kill_once(self: fleet.Fleet, process: fleet.Member, kind: str, content: list[Any]) -> None:
        handle(self, process, kind, content)
        if kind == "next" and process.held and not killed:
            assert isinstance(process, devices.DeviceProcess)
            killed.append(process.process.pid)
            os.kill(process.process.pid, signal.SIGKILL)

    monkeypatch.setattr(fleet.Fleet, "_handle", kill_once)
    assert embed.run(settings(manifest, tmp_path / "killed", device="cpu,cpu")) == 1
    assert killed
    assert "will be processed again" in capfd.readouterr().err
    require_same(tmp_path / "one", tmp_path / "killed")
    assert len(read_csv(tmp_path / "killed" / "failures.csv")) == 2
    assert not [path for path in (tmp_path / "killed").iterdir() if path.name.endswith(".tmp")]


@pytest.mark.slow
def test_a_slide_that_ends_its_process_each_time_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_cohort(tmp_path, 1)
    program = (
        "import sys; sys.path[:] = {path!r}; from multiprocessing.connection import Connection; c = Connection({fd}); "
        "c.recv_bytes(); c.send(('idle',)); c.recv_bytes(); import os; os.abort()"
    )
    monkeypatch.setattr(devices, "_PROGRAM", program)
    assert embed.run(settings(manifest, tmp_path / "cache", device="cpu,cpu")) == 1
    (failure,) = read_csv(tmp_path / "cache" / "failures.csv")
    assert failure["slide_id"] == "s0"
    assert "the process embedding it ended unexpectedly 2 times" in failure["error"]


def test_lists_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compute.resolve_devices("cpu, cpu") == [torch.device("cpu")] * 2
    with pytest.raises(UsageError, match="--device: got tpu"):
        compute.resolve_devices("cpu,tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [device.index for device in compute.resolve_devices("auto")] == [0, 1, 2]
    assert [device.index for device in compute.resolve_devices("cuda:0,cuda:2")] == [0, 2]
    with pytest.raises(UsageError, match="cuda:3 is not available"):
        compute.resolve_devices("cuda:3")
