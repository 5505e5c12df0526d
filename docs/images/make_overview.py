"""The picture of the README, from what `slpd demo` made: python docs/images/make_overview.py demo/."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from slpd_toolkit.report.overlays import colour_values, colours
from slpd_toolkit.report.scores import read_scores
from slpd_toolkit.slides.slide import Slide
from slpd_toolkit.training.prototype_file import PrototypeFile

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

    from slpd_toolkit.report.scores import SlideScores

OUT = Path(__file__).with_name("overview.png")
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")  # Okabe and Ito's, told apart by colour-blind people
MODELS = {"mean-tokens": "mean tokens", "dino": "DINO", "slpd": "SLPD", "truth": "true mixture"}
AGGREGATOR, NEAREST = "abmil", 3
_REGION_PX, _SIDE_PX, _PALETTE = 150, 460, 200


def main(demo: Path) -> None:
    """Draw `overview.png` from the output folder of `slpd demo`."""
    file = PrototypeFile.read(demo / "slpd/prototypes.h5")
    scores = {(table.model, table.aggregator): table for table in read_scores(demo / "eval/scores.h5")}
    attention = scores["slpd", AGGREGATOR]
    row = _most_varied(file)
    slide_id = str(file.slide_ids[row])
    mpl.rcParams.update({"font.size": 9, "font.family": "DejaVu Sans"})
    figure = Figure((14, 3.9), dpi=100)
    grid = figure.add_gridspec(1, 4, width_ratios=(1.15, 0.95, 1.15, 1.2))
    parts = [figure.add_subfigure(grid[0, column]) for column in range(4)]
    with Slide(demo / "slides" / f"{slide_id}.tiff") as slide:
        thumbnail = slide.thumbnail(slide.header.mpp_l0 * max(slide.header.width_l0, slide.header.height_l0) / _SIDE_PX)
        _draw_prototypes_of_slide(parts[0].add_subplot(), file, row, thumbnail.rgb, thumbnail.step_l0)
        _draw_nearest(parts[1], file, row, slide)
    here = attention.slide(attention.slide_ids.index(slide_id))
    _draw_attention(parts[2].add_subplot(), here, thumbnail.rgb, thumbnail.step_l0)
    document = json.loads((demo / "eval/metrics.json").read_text(encoding="utf-8"))
    _draw_comparison(parts[3], document)
    figure.savefig(OUT)
    with Image.open(OUT) as drawn:
        small = drawn.convert("RGB").quantize(_PALETTE, dither=Image.Dither.NONE)
    small.save(OUT, optimize=True)


def _most_varied(file: PrototypeFile) -> int:
    """The slide whose smallest cluster is largest: one that shows all its prototypes."""
    clusters = file.prototypes.shape[1]
    sizes = [
        np.bincount(file.region_cluster[file.region_row == row], minlength=clusters).min()
        for row in range(len(file.slide_ids))
    ]
    return int(np.argmax(sizes))


def _draw_prototypes_of_slide(
    axes: Axes, file: PrototypeFile, row: int, rgb: npt.NDArray[np.uint8], step_l0: float
) -> None:
    axes.imshow(rgb)
    side = file.region_l0[row] / step_l0
    inside = file.region_row == row
    for corner, cluster in zip(file.region_coords[inside] / step_l0, file.region_cluster[inside], strict=True):
        axes.add_patch(
            Rectangle(corner, side, side, fc=(*mpl.colors.to_rgb(COLOURS[cluster]), 0.28), ec="white", lw=0.8)
        )
    _finish(axes, "A slide's regions, by prototype")


def _draw_nearest(part: SubFigure, file: PrototypeFile, row: int, slide: Slide) -> None:
    clusters = file.prototypes.shape[1]
    grid = part.subplots(clusters, NEAREST, squeeze=False, gridspec_kw={"wspace": 0.06, "hspace": 0.06})
    side = int(file.region_l0[row])
    for cluster in range(clusters):
        members = np.flatnonzero((file.region_row == row) & (file.region_cluster == cluster))
        nearest = members[np.argsort(-file.region_cosine[members], kind="stable")][:NEAREST]
        for axes, region in zip(grid[cluster], nearest, strict=False):
            x, y = file.region_coords[region].tolist()
            axes.imshow(slide.read(x, y, side, _REGION_PX))
        for axes in grid[cluster]:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(color=COLOURS[cluster], linewidth=2)
    part.suptitle("Regions nearest to each prototype", fontsize=10)


def _draw_attention(axes: Axes, here: SlideScores, rgb: npt.NDArray[np.uint8], step_l0: float) -> None:
    axes.imshow(rgb)
    shown = colours(colour_values(here.scores, "rank")) / 255
    for corner, side, colour in zip(here.coords_l0 / step_l0, here.sizes_l0 / step_l0, shown, strict=True):
        axes.add_patch(Rectangle(tuple(corner), side, side, fc=(*colour, 0.5), ec="white", lw=0.8))
    _finish(axes, "Attention of the classifier")


def _draw_comparison(part: SubFigure, document: dict[str, Any]) -> None:
    axes = part.add_subplot()
    aggregators = list(dict.fromkeys(result["aggregator"] for result in document["results"]))
    for result in document["results"]:
        auc = result["metrics"]["auc"]
        place = list(MODELS).index(result["model"]) + 0.2 * (aggregators.index(result["aggregator"]) - 1)
        colour = COLOURS[aggregators.index(result["aggregator"])]
        axes.plot([auc["interval"]["low"], auc["interval"]["high"]], [place, place], color=colour, lw=2)
        axes.plot(auc["mean"], place, "o", color=colour, ms=5)
    for aggregator, colour in zip(aggregators, COLOURS, strict=False):
        axes.plot([], [], "o-", color=colour, label=aggregator)
    axes.axvline(0.5, color="0.6", lw=1, ls=":")
    axes.set(yticks=range(len(MODELS)), xlabel="AUC, 95 % interval over patients", ylim=(len(MODELS) - 0.5, -0.5))
    axes.set_yticklabels(MODELS.values())
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.17), ncols=3)
    axes.set_title("Is the representation any good?", fontsize=10)
    part.subplots_adjust(left=0.27, bottom=0.23, right=0.97)


def _finish(axes: Axes, title: str) -> None:
    axes.set_axis_off()
    axes.set_title(title, fontsize=10)
    axes.figure.subplots_adjust(left=0.02, right=0.98, bottom=0.03, top=0.9)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
