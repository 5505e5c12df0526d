"""What a figure was measured on: every benchmark prints it beside its numbers."""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
from pathlib import Path

import torch

from slpd_toolkit import __version__


def facts() -> dict[str, object]:
    """Describe the machine and the versions that matter."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "slpd_toolkit": __version__,
        "command": " ".join(["python", *sys.orig_argv[1:]]),
    }


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def report(name: str, results: object, out: Path | None) -> None:
    """Print results with the machine's facts; write them to `out`/<name>.json if a folder is given."""
    text = json.dumps({"benchmark": name, "machine": facts(), "results": results}, indent=2)
    print(text)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
