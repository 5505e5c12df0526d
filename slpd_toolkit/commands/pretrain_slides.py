"""`slpd pretrain-slides`: train a slide ViT on the region embeddings of a cohort. The loop is `training.loop.train`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit.core import console
from slpd_toolkit.report.curves import draw_curves
from slpd_toolkit.report.scores import ScoreTable, write_score_tables
from slpd_toolkit.representations.slide_context import attention_of
from slpd_toolkit.representations.slide_training import regions_for_training
from slpd_toolkit.store.selection import select_slides
from slpd_toolkit.store.token_file import TokenStore
from slpd_toolkit.training.fitting import verdict
from slpd_toolkit.training.metrics_file import read_metrics
from slpd_toolkit.training.run_folder import CURVES, METRICS
from slpd_toolkit.training.running import run_in_folder
from slpd_toolkit.training.slide_setup import SCORES, announce_slides, build_slide_run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from slpd_toolkit.config.pretrain_slides import PretrainSlidesConfig
    from slpd_toolkit.mil.statistics.results import RegionPlaces
    from slpd_toolkit.training.processes import Processes
    from slpd_toolkit.training.signals import StopRequest
    from slpd_toolkit.training.slide_setup import SlideRun

AGGREGATOR = "slide-vit"
"""Name of its attention in scores.h5."""
EVIDENCE = (
    "Slide ViTs were tested on planted cohorts only, not on real slides. Compare this one with descriptors of the same "
    "regions, such as #mixture, by `slpd mil-eval`."
)
"""Printed at the end; figures are in benchmarks/results/slide-vit.md."""
_NOTHING_LEARNED = 0.98
"""Loss of content, of 1."""


def run(config: PretrainSlidesConfig) -> int:
    """Train, or resume training, in `config.out`.

    Returns:
        0 if the run is complete; 128 plus the number of the signal if it was stopped by one and has saved its state.

    Raises:
        UsageError: The cache, the model, the settings and an earlier run in the folder do not match, or another process
            uses the folder; nothing was started.
        CacheError: The cache is empty, mixed, damaged, or can no longer be read.
        WeightsError: The model's file is not a region ViT.
        TrainingError: The loss is no longer finite.
        DeviceMemoryError: The device does not have enough memory.
    """
    places: list[RegionPlaces] = []

    def build(processes: Processes, stop: StopRequest) -> SlideRun:
        store = select_slides(TokenStore.open(config.cache), config.slides.manifest, config.slides.where)
        regions = regions_for_training(
            store, config.model, config.running.precision, processes.device, config.running.workers
        )
        places.append(regions.places)
        return build_slide_run(config, regions.bags, regions.provenance, processes, stop)

    def finish(finished: SlideRun) -> None:
        """Write the attention of the trained teacher, if its CLS token is trained, and the curves."""
        if finished.processes.first:
            out = finished.folder.path
            if config.objective.slide_weight > 0:
                _write_attention(finished, places[0], out / SCORES)
            rows = read_metrics(out / METRICS)
            draw_curves(out / CURVES, rows, tuple(config.objective.weights))
            console.warn_if(_verdict(config, rows[-1]) if rows else "")
            console.note(EVIDENCE)

    return run_in_folder(config.out, "pretrain-slides", config.running.device, build, announce_slides, finish)


def _verdict(config: PretrainSlidesConfig, last: Mapping[str, str]) -> str:
    """Describe a run that has not learned, and what to change; empty if it has."""
    content = float(last["content"])
    if config.objective.content_weight > 0 and content > _NOTHING_LEARNED:
        return (
            f"The network has learned almost nothing: its predictions of hidden regions have a loss of {content:.3f}, "
            "and the mean region has 1. Train longer (--epochs), raise --lr, or use fewer --hidden regions."
        )
    if config.objective.slide_weight > 0:
        return verdict({**last, "dino": last["slide"]}, config.dino_head.out_dim)
    return ""


def _write_attention(run: SlideRun, places: RegionPlaces, path: Path) -> None:
    bags = run.bags
    attention = attention_of(run.state.slpd.teacher.backbone, bags, run.state.device)
    table = ScoreTable(
        run.folder.path.resolve().name,
        AGGREGATOR,
        bags.slides,
        bags.offsets,
        places.coords_l0,
        places.region_l0,
        places.slide_size_l0,
        attention,
    )
    write_score_tables(path, [table], "")
