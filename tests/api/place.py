"""A folder with the files that the examples of the public names use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.cohorts import write_manifest
from tests.slide_factory import tissue_on_glass, write_slide
from tests.token_factory import write_cache

if TYPE_CHECKING:
    from pathlib import Path

TINY_RECIPE = """batch_size = 8
warmup_epochs = 1
prototype_epoch = 0
clusters = 2
min_regions = 2
global_side = 5
local_side = 3
local_crops = 2
embed_dim = 24
depth = 1
heads = 3
hidden_dim = 32
bottleneck_dim = 16
out_dim = 64
"""
LENGTHS = (9, 3, 6, 7, 5, 4, 6, 5, 6, 5, 7, 5)


def furnish(folder: Path) -> None:
    """Write a cohort of tokens with labels, two slides, and tables of other tools."""
    write_cache(folder / "cache", LENGTHS)
    labels = ("luad", "lusc")
    write_manifest(
        folder / "cohort.csv",
        [{"slide_id": f"slide{number:03}", "label": labels[number % 2]} for number in range(len(LENGTHS))],
    )
    rows = [{"slide_id": name, "slide_path": f"slides/{name}.tif"} for name in ("first", "second")]
    write_manifest(folder / "slides.csv", rows)
    (folder / "slides").mkdir()
    for seed, row in enumerate(rows):
        picture = tissue_on_glass(480, 480, [(60, 60, 480, 480)], mpp=1.0, seed=seed)
        write_slide(folder / row["slide_path"], picture, mpp=1.0, downsamples=(2,), compression="jpeg")
    (folder / "tiny.toml").write_text(TINY_RECIPE)
    clam = [{"case_id": f"P{n}", "slide_id": f"P{n}-01.svs", "label": labels[n]} for n in range(2)]
    write_manifest(folder / "clam.csv", clam)
    squares = [{"slide_id": "slide000", "x_l0": x, "y_l0": 0, "size_l0": 1536, "score": x / 1536} for x in (0, 1536)]
    write_manifest(folder / "scores.csv", squares)
