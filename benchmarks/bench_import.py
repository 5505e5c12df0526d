"""`slpd import` on one core from page cache: megabytes of features per second, and memory, for each storage layout.

    python -m benchmarks.bench_import [--slides 4] [--patches 20000]

Each case writes the slides of a cohort as its tool does, with patches in random order, reads them once so that they
are in the page cache, and imports them. For comparison, the same features are read with h5py only, and written with
plain calls. The process and its threads are pinned to one core.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from benchmarks.measure import peak_mib, report
from slpd_toolkit.commands.import_features import run
from slpd_toolkit.config.import_features import ImportConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Array = npt.NDArray[Any]

ATTRIBUTES = {
    "patch_size": 256,
    "patch_size_level0": 512,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 0,
    "level0_width": 200_000,
    "level0_height": 200_000,
}
CASES = {
    "trident, 1024 x fp32, a chunk a row": (1024, "f4", True),
    "trident, 1536 x fp16, a chunk a row": (1536, "f2", True),
    "trident, 384 x fp32, a chunk a row": (384, "f4", True),
    "trident, 384 x fp16, a chunk a row": (384, "f2", True),
    "trident, 1024 x fp32, contiguous": (1024, "f4", False),
}


def tissue(patches: int, rng: np.random.Generator) -> Array:
    """Return the corners of the patches of a round piece of tissue, level-0 px, in random order."""
    side = int(np.ceil(np.sqrt(patches * 4 / np.pi))) + 2
    y, x = np.indices((side, side))
    near = np.argsort(((x - side / 2) ** 2 + (y - side / 2) ** 2).ravel(), kind="stable")[:patches]
    return rng.permutation(np.stack([x.ravel()[near], y.ravel()[near]], axis=1) * 512).astype(np.int64)


def write_cohort(folder: Path, slides: int, patches: int, width: int, dtype: str, *, chunked: bool) -> int:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for index in range(slides):
        arrays = {
            "features": rng.standard_normal((patches, width), np.float32).astype(dtype),
            "coords": tissue(patches, rng),
        }
        with h5py.File(folder / f"slide{index}.h5", "w") as file:
            for name, array in arrays.items():
                layout = {"chunks": (1, array.shape[1]), "maxshape": (None, array.shape[1])} if chunked else {}
                file.create_dataset(name, data=array, **layout)
            file["coords"].attrs.update(ATTRIBUTES)
    return slides * patches * width * np.dtype(dtype).itemsize


def read_plainly(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        with h5py.File(path) as file:
            file["features"][...]
            file["coords"][...]


def imported(folder: Path, out: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert run(ImportConfig(source=folder, out=out, min_tissue=0)) == 0


def rate(function: Callable[[], None], size: int, repeats: int, removed: Path | None = None) -> dict[str, float]:
    """Return the MB/s of the fastest round, by wall time and CPU time; `removed` is deleted before each round."""
    walls, cpus = [], []
    for _ in range(repeats):
        if removed:
            shutil.rmtree(removed, ignore_errors=True)
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {"wall": round(size / 1e6 / min(walls)), "cpu": round(size / 1e6 / min(cpus))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=4)
    parser.add_argument("--patches", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="folder to write to; default: a temporary folder")
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    results: dict[str, Any] = {}
    for name, (width, dtype, chunked) in CASES.items():
        with tempfile.TemporaryDirectory(dir=options.folder) as place:
            folder, out = Path(place) / "features_bench", Path(place) / "cache"
            size = write_cohort(folder, options.slides, options.patches, width, dtype, chunked=chunked)
            read_plainly(folder)
            results[name] = {
                "features_mb": round(size / 1e6),
                "h5py_alone_mb_s": rate(partial(read_plainly, folder), size, options.repeats),
                "import_mb_s": rate(partial(imported, folder, out), size, options.repeats, removed=out),
                "import_peak_mib": round(peak_mib(partial(imported, folder, Path(place) / "again"))),
            }
    report({"slides": options.slides, "patches_per_slide": options.patches, "cases": results})


if __name__ == "__main__":
    main()
