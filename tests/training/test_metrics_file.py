from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slpd_toolkit.commands import pretrain
from slpd_toolkit.training.metrics_file import MetricsLog, columns, read_metrics
from tests.training.runs import tiny

if TYPE_CHECKING:
    from pathlib import Path

ROW = dict.fromkeys(columns(), 0.1234567890123456789)


def write(path: Path, steps: range, after_step: int) -> None:
    log = MetricsLog(path, after_step, columns())
    for step in steps:
        log.add(ROW | {"step": step})
    log.close()


def steps(path: Path) -> list[int]:
    return [int(row["step"]) for row in read_metrics(path)]


def test_rows_are_read_while_the_run_goes_on_with_all_their_digits(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.csv", 0, columns())
    log.add(ROW | {"step": 1, "intra": ""})
    (row,) = read_metrics(tmp_path / "metrics.csv")
    assert tuple(row) == columns()
    assert float(row["loss"]) == ROW["loss"]
    assert row["intra"] == ""
    log.close()


def test_rows_of_steps_that_are_done_again_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    write(path, range(1, 6), 0)
    before = path.read_bytes().splitlines()[:4]
    write(path, range(4, 8), 3)
    assert steps(path) == [1, 2, 3, 4, 5, 6, 7]
    assert path.read_bytes().splitlines()[:4] == before


def test_a_row_cut_short_anywhere_but_in_its_last_number_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    write(path, range(1, 3), 0)
    whole = path.read_bytes()
    last = len(whole) - len(whole.splitlines()[-1]) - 1
    for end in range(last, whole.rindex(b",") + 2, 13):
        path.write_bytes(whole[:end])
        write(path, range(2, 3), 2)
        assert steps(path) == [1, 2], end
        assert path.read_bytes() == whole, end


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.csv", 0, columns(), tmp_path / "events")
    log.add({"step": 7, "loss": 2.5})
    log.close()
    (events,) = (tmp_path / "events").iterdir()
    assert b"loss" in events.read_bytes()


@pytest.mark.slow
def test_a_run_writes_events_only_when_asked(cache: Path, tmp_path: Path, no_curves: None) -> None:
    for wanted in (False, True):
        out = tmp_path / str(wanted)
        pretrain.run(tiny(cache, out, epochs=1, warmup_epochs=0, tensorboard=wanted))
        assert (out / "tensorboard").is_dir() == wanted
