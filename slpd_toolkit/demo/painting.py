"""Generation of the demo's slides in parallel, with the manifest and the ground truth as tables."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TYPE_CHECKING

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import SlpdError
from slpd_toolkit.core.files import remove_leftovers, write_csv
from slpd_toolkit.demo.architectures import Architecture
from slpd_toolkit.demo.slides import SUFFIX, TRUTH_SUFFIX, paint_slide

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from slpd_toolkit.demo.cohort_plan import PlannedSlide

MANIFEST, TRUTH = "cohort.csv", "truth.csv"
SLIDES = "slides"
_MOST_JOBS = 8
_ARCHITECTURES = [kind.name.lower() for kind in Architecture]


def paint_cohort(planned: Sequence[PlannedSlide], out: Path, jobs: int) -> None:
    """Generate the missing slides of a cohort in `out`/slides; write its manifest, and its true mixtures as a table.

    Args:
        planned: The slides.
        out: Folder of the demo.
        jobs: Number of processes; 0 for one per core, at most 8.

    Raises:
        SlpdError: A process was killed.
    """
    folder = out / SLIDES
    folder.mkdir(parents=True, exist_ok=True)
    missing = [slide for slide in planned if not (folder / f"{slide.slide_id}{SUFFIX}").exists()]
    for slide in missing:
        remove_leftovers(folder / f"{slide.slide_id}{SUFFIX}")
    if missing:
        workers = min(jobs or min(os.cpu_count() or 1, _MOST_JOBS), len(missing))
        with console.progress("paint", total=len(missing), unit="slides") as progress:
            _paint(missing, folder, workers, progress)
    write_csv(out / MANIFEST, ("slide_id", "slide_path", "patient_id", "label"), map(_manifest_row, planned))
    write_csv(out / TRUTH, ("slide_id", *_ARCHITECTURES), (_truth_row(slide, folder) for slide in planned))


def _paint(missing: Sequence[PlannedSlide], folder: Path, workers: int, progress: console.Progress) -> None:
    # Spawned instead of forked, because the libraries of this process run threads.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, context, initializer=partial(signal.signal, signal.SIGINT, signal.SIG_IGN))
    try:
        for painted in as_completed([executor.submit(paint_slide, slide, folder) for slide in missing]):
            painted.result()
            progress.advance(1)
    except BrokenProcessPool as error:
        raise SlpdError(
            "A process that generates slides was killed, probably because memory ran out.",
            hint="Run the same command again with --jobs 1; complete slides are kept.",
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _manifest_row(slide: PlannedSlide) -> dict[str, object]:
    return {
        "slide_id": slide.slide_id,
        "slide_path": f"{SLIDES}/{slide.slide_id}{SUFFIX}",
        "patient_id": slide.patient_id,
        "label": slide.label,
    }


def _truth_row(slide: PlannedSlide, folder: Path) -> dict[str, object]:
    truth = json.loads((folder / f"{slide.slide_id}{TRUTH_SUFFIX}").read_text(encoding="utf-8"))
    return {"slide_id": slide.slide_id, **truth["mixture"]}
