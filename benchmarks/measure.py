"""Measure alternating timings of two functions and peak memory, and describe the machine."""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import sys
import time
from ctypes import CDLL
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Seconds(NamedTuple):
    wall: float
    cpu: float
    """CPU time of all threads of this process, which other work on the machine hardly affects."""


def interleaved(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[Seconds]]:
    """Time every function, in alternation so that other load affects all of them; after one warm-up round."""
    seconds: dict[str, list[Seconds]] = {name: [] for name in functions}
    for round_ in range(repeats + 1):
        for name, function in functions.items():
            _synchronise()
            start = Seconds(time.perf_counter(), time.process_time())
            function()
            _synchronise()
            if round_ > 0:
                seconds[name].append(Seconds(time.perf_counter() - start.wall, time.process_time() - start.cpu))
    return seconds


def summary(seconds: list[Seconds]) -> dict[str, float]:
    walls, cpus = zip(*seconds, strict=True)
    return {
        "best_wall_s": round(min(walls), 3),
        "median_wall_s": round(statistics.median(walls), 3),
        "best_cpu_s": round(min(cpus), 3),
    }


def ratio(slower: list[Seconds], faster: list[Seconds]) -> dict[str, float]:
    """Return the speedup, by minimum wall time and minimum CPU time."""
    return {
        "wall": round(min(s.wall for s in slower) / min(s.wall for s in faster), 2),
        "cpu": round(min(s.cpu for s in slower) / min(s.cpu for s in faster), 2),
    }


def peak_mib(function: Callable[[], object]) -> float:
    """Return peak memory above the memory used before, in MiB: allocated on CUDA, resident on Linux."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = _status_kib("VmRSS")
    function()
    return (_status_kib("VmHWM") - before) / 2**10


def report(result: dict[str, Any]) -> None:
    """Print the result with the command and the machine, as JSON."""
    print(json.dumps({"command": " ".join(sys.argv), "machine": machine(), **result}, indent=2))


def add_to_report(path: Path, part: str, shared: dict[str, Any], name: str, result: dict[str, Any]) -> None:
    """Add the result of one thing that was measured to one part of a JSON file, and keep what it already contains.

    Args:
        path: The file; created if it does not exist.
        part: Key of the part.
        shared: What all results of the part have in common.
        name: What was measured.
        result: Its figures.
    """
    document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    before, shared = document.get(part, {}), json.loads(json.dumps(shared))
    kept = before.get("measured", {}) if all(before.get(key) == value for key, value in shared.items()) else {}
    entry = {"command": " ".join(sys.argv), "machine": machine(), **result}
    document[part] = {**shared, "measured": {**kept, name: entry}}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """Describe the machine; included in every result."""
    return {
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _status_kib(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
