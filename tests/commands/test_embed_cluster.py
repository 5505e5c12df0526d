"""A Ray cluster: the cache of one process, also where a node is lost."""

from __future__ import annotations

import gc
import logging
import math
from pathlib import Path
from typing import Any

import pytest

from slpd_toolkit.commands import embed
from slpd_toolkit.core import cluster as clusters
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.workers import in_processes
from slpd_toolkit.ingest.embedding.fleet import Fleet, Member
from tests.cohorts import read_csv, write_cohort
from tests.commands.test_embed_devices import require_same, settings

QUICK_HEALTH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}


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
        with clusters.joined_cluster("auto"):  # as `slpd mil-eval` and `slpd heatmap` do
            assert list(in_processes(math.hypot, [(3, 4), (5, 12)], 1, doing="computes")) == [5.0, 13.0]
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


def test_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--cluster: got here, allowed: auto or ray://HOST:10001"):
        settings(tmp_path, tmp_path, cluster="here")
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with (
        pytest.raises(UsageError, match=r"needs Ray, which is not installed.*slpd-toolkit\[ray\]"),
        clusters.joined_cluster("auto"),
    ):
        pass
