"""Reading alone: patches per CPU second of one core, per slide.

    python -m benchmarks.bench_read SLIDE[:MPP_L0]... [--mpp 0.5] [--rounds 3]

Reading includes decoding, scaling, and the comparison with the thumbnail, as in `slpd embed`, in this process.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import report
from slpd_toolkit.config.region_selection import RegionSelectionConfig
from slpd_toolkit.slides.plan import plan_slide, read_block
from slpd_toolkit.slides.regions import lay_lattice
from slpd_toolkit.slides.slide import Slide

if TYPE_CHECKING:
    from slpd_toolkit.slides.plan import SlidePlan
    from slpd_toolkit.slides.regions import Lattice


def read(slide: Slide, lattice: Lattice, plan: SlidePlan) -> float:
    """Return the patches of all kept regions per CPU second."""
    patches, started = 0, time.process_time()
    for block in plan.blocks():
        pixels = read_block(slide, lattice, plan.corner_l0(block), block, plan.overview(block))
        patches += int(pixels.inside.sum())
    return patches / (time.process_time() - started)


def measure(path: Path, mpp_l0: float | None, mpp: float, rounds: int) -> dict[str, Any]:
    with Slide(path, mpp_l0) as slide:
        lattice = lay_lattice(slide.header, target_mpp=mpp, patch_px=256, region_px=4096, max_upsample=4.0)
        plan = plan_slide(slide, lattice, RegionSelectionConfig(min_tissue=0.05))
        rates = [read(slide, lattice, plan) for _ in range(rounds)]
    return {
        "slide": path.name,
        "mpp_l0": slide.header.mpp_l0,
        "regions": len(plan.coords_l0),
        "patches_per_cpu_second": [round(rate) for rate in rates],
        "median": round(statistics.median(rates)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("slides", nargs="+", metavar="SLIDE[:MPP_L0]")
    parser.add_argument("--mpp", type=float, default=0.5, help="target resolution, um/px")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found = []
    for text in options.slides:
        path, _, mpp_l0 = text.partition(":")
        found.append(measure(Path(path), float(mpp_l0) if mpp_l0 else None, options.mpp, options.rounds))
    report({"mpp": options.mpp, "slides": found})


if __name__ == "__main__":
    main()
