"""Start of commands on a cache of many small slides, with its index: CPU seconds until the work starts.

    python -m benchmarks.bench_start --folder /dev/shm/start --slides 20000 --out benchmarks/results/start-cpu.json

Measured are all of `slpd inspect`, `slpd pretrain` until the first step, and `slpd mil-eval` until it reads tokens and
until the first fold, in between mean tokens are computed and slides compared. All include the start of Python and the
imports, so 40 slides are measured as well. A slide has 3 regions of 2 x 2 tokens of 8 features; OMP_NUM_THREADS=1.
Files in `--folder` are kept, because writing 20 000 takes minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.measure import machine
from slpd_toolkit.core.files import write_text
from slpd_toolkit.store.schema import TokenMeta
from slpd_toolkit.store.writer import TokenWriter

GRID, WIDTH, REGIONS = 2, 8, 3
DRIVER = """
import os, resource, sys
def stop(*_, **__):
    used = resource.getrusage(resource.RUSAGE_SELF)
    print("CPU", used.ru_utime + used.ru_stime, flush=True)
    os._exit(0)
module, function = sys.argv.pop(1).rsplit(".", 1)
if function != "end":
    __import__(module)
    setattr(sys.modules[module], function, stop)
from slpd_toolkit.cli import app
try:
    app.main()
finally:
    stop()
"""
META = TokenMeta(
    slide_id="",
    slide_width_l0=100_000,
    slide_height_l0=80_000,
    slide_fingerprint="0-0",
    mpp_l0=0.5,
    target_mpp=0.5,
    effective_mpp=0.5,
    upsampling=1.0,
    patch_px=256,
    region_px=512,
    region_l0=512,
    min_tissue=0.1,
    encoder="synthetic",
    encoder_sha256="0" * 64,
    encoder_input_px=256,
    embedding_dim=WIDTH,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    precision="fp32",
    toolkit_version="0",
    recipe="{}",
)


def write_slides(cache: Path, manifest: Path, slides: int) -> None:
    """Write the token files that are missing, and a manifest: two slides per patient, two classes."""
    cache.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows, columns = np.divmod(np.arange(GRID * GRID), GRID)
    coords = np.stack([np.arange(REGIONS) * META.region_l0, np.zeros(REGIONS, np.int64)], axis=1)
    lines = ["slide_id,patient_id,label"]
    for number in range(slides):
        name, label = f"S{number:05}", number // 2 % 2
        lines.append(f"{name},P{number // 2:05},{'ab'[label]}")
        if (cache / f"{name}.h5").exists():
            continue
        meta = TokenMeta(**{**META.__dict__, "slide_id": name})
        tokens = (rng.standard_normal((REGIONS, GRID * GRID, WIDTH)) + label).astype(np.float16)
        tissue = np.ones((REGIONS, GRID, GRID), np.float32)
        with TokenWriter(cache / f"{name}.h5", meta, coords, tissue, None) as writer:
            for region in range(REGIONS):
                writer.put(region, rows, columns, tokens[region])
    write_text(manifest, "\n".join(lines) + "\n")


def cpu_seconds(until: str, *command: object) -> float:
    """Run a command until a function is called, and return its CPU time, s."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, until, *map(str, command)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = [line for line in done.stdout.splitlines() if line.startswith("CPU ")]
    if not found:
        raise SystemExit(done.stdout + done.stderr)
    return round(float(found[0].removeprefix("CPU ")), 1)


def measure(folder: Path, slides: int) -> dict[str, float]:
    """Measure the three commands on a cache."""
    cache, manifest = folder / "cache", folder / "cohort.csv"
    write_slides(cache, manifest, slides)
    cpu_seconds("command.end", "inspect", cache)  # writes the index
    mil_eval = (
        "mil-eval", cache, "--manifest", manifest, "--target", "label", "--model", "mean-tokens", "--folds", 3,
        "--jobs", 1, "--device", "cpu", "--out", folder / "eval",
    )  # fmt: skip
    pretrain = (
        "pretrain", cache, "--out", folder / "run", "--device", "cpu", "--global-side", 2, "--local-side", 1,
        "--min-regions", 1, "--batch-size", 8, "--epochs", 1, "--warmup-epochs", 0,
    )  # fmt: skip
    return {
        "inspect": cpu_seconds("command.end", "inspect", cache),
        "pretrain": cpu_seconds("slpd_toolkit.training.running.train", *pretrain),
        "mil_eval_until_tokens": cpu_seconds("slpd_toolkit.commands.mil_eval.represent_all", *mil_eval),
        "mil_eval_until_folds": cpu_seconds("slpd_toolkit.commands.mil_eval.evaluate_models", *mil_eval),
    }


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--slides", type=int, default=20_000)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    found = {
        "command": shlex.join(["python", "-m", "benchmarks.bench_start", *sys.argv[1:]]),
        "machine": machine(),
        "cpu_seconds": {
            f"{slides} slides": measure(chosen.folder / str(slides), slides) for slides in (40, chosen.slides)
        },
    }
    print(json.dumps(found, indent=2))
    if chosen.out:
        write_text(chosen.out, json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
