"""Run every CUDA path, check it against the CPU, and write figures: `make gpu`, or

    python -m benchmarks.gpu [--parts encoders,step] [--device cuda] [--out runs/gpu] [--results benchmarks/results]
    python -m benchmarks.gpu --device cpu --tiny    # tries the parts where there is no GPU; figures mean nothing

Each part runs in a process of its own, so that one that fails does not end the others. What a machine lacks is named,
and the part is skipped. No network is used.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.gpu.place import MissingError, Place, prepare
from benchmarks.gpu.report import as_markdown

PARTS = {"encoders": 120, "step": 90, "pretrain": 120, "embed": 150, "evaluation": 120, "matching": 60}
"""Parts in their order, each with the seconds on a GPU after which it is ended."""


@dataclass(frozen=True)
class Options:
    """What all parts share."""

    device: str
    tiny: bool
    out: Path
    """Folder of the results and messages of each part."""


_PACKAGES = (
    *("torch", "numpy", "timm", "scikit-learn", "h5py", "opencv-python-headless", "tifffile", "rich", "typer"),
    *("openslide-python", "openslide-bin", "faiss-cpu"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"any of {', '.join(PARTS)}")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that a CPU can run")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of gpu.json and gpu.md")
    parser.add_argument("--results", type=Path, help="also write gpu.json and gpu.md here if all parts ran")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    chosen = Options(device=options.device, tiny=options.tiny, out=options.out)
    if options.one:
        return run_here(options.one, chosen)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        sys.stderr.write("error: there is no CUDA device here. Try the parts on the CPU: --device cpu --tiny\n")
        return 2
    unknown = sorted(set(options.parts.split(",")) - set(PARTS))
    if unknown:
        parser.error(f"--parts: got {', '.join(unknown)}, allowed: {', '.join(PARTS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"machine": machine(options.device), "command": " ".join(sys.argv[1:]), "parts": {}}
    for name in options.parts.split(","):
        document["parts"][name] = part = run_apart(name, chosen)
        say(name, part)
        write(document, options.out)
    bad = [name for name, part in document["parts"].items() if part["status"] not in {"passed", "skipped"}]
    if options.results and not options.tiny and list(document["parts"]) == list(PARTS):
        write(document, options.results)
    print(f"{sum(part['seconds'] for part in document['parts'].values()):.0f} s; {options.out / 'gpu.md'}")
    return 1 if bad else 0


def run_apart(name: str, options: Options) -> dict[str, Any]:
    """Run a part in a process of its own, and return what it reported, or how it ended."""
    result = (options.out / f"{name}.json").resolve()
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu", "--one", name, "--device", options.device]
    command += ["--out", str(options.out), *["--tiny"] * options.tiny]
    started = time.perf_counter()
    log, limit_s = options.out / f"{name}.log", PARTS[name] * (1 if options.device.startswith("cuda") else 20)
    with log.open("w", encoding="utf-8") as file:
        try:
            done = subprocess.run(command, check=False, timeout=limit_s, stdout=file, stderr=file)
            ended = f"ended with exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            ended = f"was ended after {limit_s} s"
    if result.exists():
        part: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    else:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        part = {"status": "failed", "error": f"{ended}: {lines[-1] if lines else 'no message'}", "log": lines[-40:]}
    return part | {"seconds": round(time.perf_counter() - started, 1)}


def run_here(name: str, options: Options) -> int:
    """Run a part in this process and write its results."""
    notes, failure = prepare(), dict[str, Any]()
    with TemporaryDirectory(prefix="slpd-gpu-") as folder:
        place = Place(options.device, options.tiny, Path(folder), notes=notes)
        try:
            figures = import_module(f"benchmarks.gpu.parts.{name}").run(place)
            status = "passed" if all(check["ok"] for check in place.checks) else "failed"
        except MissingError as missing:
            figures, status = {"why": str(missing)}, "skipped"
        except ModuleNotFoundError as missing:
            figures, status = {"why": f"needs {missing.name}, which is not installed"}, "skipped"
        except Exception as error:  # noqa: BLE001 - what was checked before is reported as well
            figures, status = {}, "failed"
            failure = {"error": f"{type(error).__name__}: {error}", "log": traceback.format_exc().splitlines()}
    part = {"status": status, "notes": place.notes, "checks": place.checks, "figures": figures, **failure}
    (options.out / f"{name}.json").write_text(json.dumps(part, indent=2), encoding="utf-8")
    return 0


def machine(device: str) -> dict[str, Any]:
    """Describe the machine, with the packages that are missing."""
    found: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    on_gpu = device.startswith("cuda")
    return {
        "card": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "memory_gib": round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1) if on_gpu else None,
        "cuda": torch.version.cuda,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": found,
    }


def say(name: str, part: dict[str, Any]) -> None:
    """Print how a part went, with the checks that failed."""
    print(f"{name}: {part['status']}, {part['seconds']:.0f} s, {len(part.get('checks', []))} checks", flush=True)
    for line in (*part.get("notes", []), *filter(None, (part.get("error"), part.get("figures", {}).get("why")))):
        print(f"  {line}")
    for line in part.get("log", [])[-15:]:
        print(f"  | {line}")
    for check in part.get("checks", []):
        if not check["ok"]:
            limit = f": {check['found']:.3g}, allowed {check['limit']:.3g}" if "found" in check else ""
            print(f"  FAILED {check['what']}{limit}")


def write(document: dict[str, Any], folder: Path) -> None:
    (folder / "gpu.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (folder / "gpu.md").write_text(as_markdown(document), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
