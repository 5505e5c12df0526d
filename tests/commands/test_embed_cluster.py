"""A Ray cluster: the cache of one process, also where a node is lost."""

from __future__ import annotations

import gc
import logging
import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from slpd_toolkit.commands import embed, heatmap
from slpd_toolkit.config.heatmap import HeatmapConfig
from slpd_toolkit.core import cluster as clusters
from slpd_toolkit.core.errors import SlideError, UsageError
from slpd_toolkit.core.manifest import SlideEntry
from slpd_toolkit.core.workers import WorkerKilledError, in_processes
from slpd_toolkit.ingest.embedding.fleet import Fleet, Member
from slpd_toolkit.ingest.embedding.tally import EmbedTally
from tests.cohorts import read_csv, write_cohort
from tests.commands.test_embed_devices import require_same, settings
from tests.evaluations import two_classes

if TYPE_CHECKING:
    from collections.abc import Sequence

QUICK_HEALTH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}


def fail(message: str) -> None:
    raise SlideError(message, hint="Copy it.")


def mil_eval_and_heatmap(folder: Path) -> None:
    """Evaluate and draw here and on the cluster, and compare the files."""
    cohort = two_classes(folder)
    made = []
    for name, cluster in (("here", ""), ("there", "auto")):
        cohort.evaluate(folder / name, aggregator=("abmil",), folds=3, steps=20, cluster=cluster)
        heatmap.run(
            HeatmapConfig(scores=folder / name, out=folder / f"{name}-maps", format="geojson", jobs=1, cluster=cluster)
        )
        files = [folder / name / "metrics.json", folder / name / "predictions.csv"]
        files += sorted((folder / f"{name}-maps").glob("*.geojson"))
        made.append([(path.name, path.read_text().replace(f'"cluster": "{cluster}"', "")) for path in files])
    assert len(made[0]) > 10
    assert made[0] == made[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray's own modules
def test_a_lost_node_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ray = pytest.importorskip("ray")
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))  # the settings of this cohort name functions of the tests
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)  # so that it takes 127.0.0.1 for an address
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    manifest = write_cohort(tmp_path, 4)
    with manifest.open("a") as file:
        file.write("bad,absent.tif\nbroken,manifest.csv\n")
    assert embed.run(settings(manifest, tmp_path / "one")) == 1

    node: dict[str, Any] = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 << 20}
    node |= {"node_ip_address": "127.0.0.1"}  # nothing listens on other addresses
    head = node | {"include_dashboard": False, "_system_config": QUICK_HEALTH}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    lost: list[str] = []
    handle = Fleet._handle
    try:
        second = nodes.add_node(**node)
        ray.init(address=nodes.address, log_to_driver=False, logging_level=logging.ERROR)

        def lose_a_node(self: Fleet, member: Member, kind: str, content: list[Any]) -> None:
            handle(self, member, kind, content)
            if kind == "next" and member.held and not lost and member.slot.node_id == second.node_id:  # type: ignore[attr-defined]
                lost.append(member.name)
                nodes.remove_node(second, allow_graceful=False)  # type: ignore[no-untyped-call]

        monkeypatch.setattr(Fleet, "_handle", lose_a_node)
        assert embed.run(settings(manifest, tmp_path / "lost", cluster="auto")) == 1
        mil_eval_and_heatmap(tmp_path)
        with clusters.joined_cluster("auto"), pytest.raises(WorkerKilledError, match="that aborts repeatedly ended"):
            list(in_processes(os.abort, [()], 1, doing="aborts"))
        with clusters.joined_cluster("auto"), pytest.raises(SlideError, match=r"^no pixels") as caught:
            list(in_processes(fail, [("no pixels",)], 1, doing="fails"))
        assert caught.value.hint == "Copy it."
    finally:
        ray.shutdown()
        nodes.shutdown()  # type: ignore[no-untyped-call]
    assert lost
    assert "will be processed again" in capfd.readouterr().err
    require_same(tmp_path / "one", tmp_path / "lost")
    for name in ("one", "lost"):
        assert sorted(row["slide_id"] for row in read_csv(tmp_path / name / "failures.csv")) == ["bad", "broken"]
    assert (tmp_path / "lost" / "qc" / "index.html").exists()
    assert not [path for path in (tmp_path / "lost").iterdir() if path.name.endswith(".tmp")]
    nodes = second = None  # type: ignore[assignment]
    gc.collect()  # Ray leaves files open: here their warnings are ignored, in a later test they would be errors


class Puppet(Member):
    """A process that holds three slides at once, and ends when one of them is poison."""

    drained = idle = awaiting = False

    def send(self, entry: SlideEntry | None) -> None:
        self.awaiting, self.drained = False, entry is None

    def receive(self) -> list[tuple[Any, ...]]:
        full = self.drained or len(self.held) == 3
        if (self.idle and self.drained) or (full and any(name.startswith("poison") for name in self.held)):
            raise EOFError
        if full and self.held:
            return [("over", 0, next(iter(self.held)))]
        self.idle, self.drained, self.awaiting = not self.held, False, True
        return [("next",) if self.held else ("idle",)]

    def end(self) -> None:
        pass

    def how_it_ended(self) -> str:
        return "killed"


@pytest.mark.parametrize("poisons", [1, 6])
@pytest.mark.parametrize("places", [1, 2])
def test_a_slide_that_ends_every_process_takes_no_other_with_it(poisons: int, places: int) -> None:
    names = [f"s{number}" for number in range(10)]
    names[1:1] = [f"poison{number}" for number in range(poisons)]
    failed: list[str] = []
    lane = SimpleNamespace(tally=EmbedTally(), failures=failed, record=lambda entry, _: failed.append(entry.slide_id))
    finished: list[str] = []

    class Watched(Fleet):
        def _handle(self, member: Member, kind: str, content: list[Any]) -> None:
            super()._handle(member, kind, content)
            finished.extend(content[1:] if kind == "over" else [])

    def wait(members: Sequence[Member]) -> list[Member]:
        return [member for member in members if isinstance(member, Puppet) and not member.awaiting]

    start = [partial(Puppet, f"puppet {number}") for number in range(places)]
    Watched([lane], start, wait).run([SlideEntry(row, name, name, "", None) for row, name in enumerate(names)])  # type: ignore[list-item]
    assert sorted(failed) == [name for name in names if name.startswith("poison")]
    assert sorted(finished) == [f"s{number}" for number in range(10)]


class DiesWithOneEncoder(Member):
    """A process whose first encoder finishes each slide; the second one ends the process for a poisonous slide."""

    queue: list[tuple[Any, ...]]
    awaiting = False

    def send(self, entry: SlideEntry | None) -> None:
        self.awaiting = False
        poison = entry is not None and entry.slide_id == "poison"
        name = entry.slide_id if entry is not None else ""
        self.queue = [("over", 0, name), ("end",) if poison else ("over", 1, name), ("idle",)] if name else [("end",)]

    def receive(self) -> list[tuple[Any, ...]]:
        message = self.queue.pop(0) if "queue" in vars(self) else ("idle",)
        if message == ("end",):
            raise EOFError
        self.awaiting = message == ("idle",)
        return [message]

    def end(self) -> None:
        pass

    def how_it_ended(self) -> str:
        return "killed"


def test_an_encoder_that_ends_the_process_does_not_fail_the_slide_for_another() -> None:
    failed: list[tuple[int, str]] = []
    lanes = [
        SimpleNamespace(
            tally=EmbedTally(),
            failures=failed,
            record=lambda entry, _, lane=lane: failed.append((lane, entry.slide_id)),
        )
        for lane in (0, 1)
    ]

    def wait(members: Sequence[Member]) -> list[Member]:
        return [member for member in members if isinstance(member, DiesWithOneEncoder) and not member.awaiting]

    entries = [SlideEntry(row, name, name, "", None) for row, name in enumerate(("a", "poison", "b"))]
    Fleet(lanes, [partial(DiesWithOneEncoder, "it")], wait).run(entries)  # type: ignore[arg-type]
    assert failed == [(1, "poison")]


@pytest.mark.parametrize("address", ["ray://127.0.0.1:1", "ray://127.0.0.1:x", "auto"])
@pytest.mark.filterwarnings("ignore")  # of Ray's own modules
def test_no_cluster_at_an_address_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray tries for minutes"))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # of a cluster that was stopped
    with pytest.raises(UsageError, match=f"--cluster: got {address}, but no Ray cluster responds there") as caught:
        clusters._connect(ray, address)
    assert "ray start --head" in caught.value.hint


def test_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--cluster: got here, allowed: auto or ray://HOST:10001"):
        settings(tmp_path, tmp_path, cluster="here")
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with (
        pytest.raises(UsageError, match=r"needs Ray, which is not installed.*slpd-toolkit\[ray\]"),
        clusters.joined_cluster("auto"),
    ):
        pass
