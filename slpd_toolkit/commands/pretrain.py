"""`slpd pretrain`: train the region ViT on a token cache. The training loop is `training.loop.train`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from slpd_toolkit.core import console
from slpd_toolkit.encoders.cache_check import normalisation_warning
from slpd_toolkit.report.curves import draw_curves
from slpd_toolkit.training.fitting import verdict
from slpd_toolkit.training.metrics_file import read_metrics
from slpd_toolkit.training.run_folder import CURVES, METRICS
from slpd_toolkit.training.running import run_in_folder
from slpd_toolkit.training.setup import announce, build_run

if TYPE_CHECKING:
    from slpd_toolkit.config.pretrain import PretrainConfig
    from slpd_toolkit.training.setup import RegionRun


def run(config: PretrainConfig) -> int:
    """Train, or resume training, in `config.out`.

    Returns:
        0 if the run is complete; 128 plus the number of the signal if it was stopped by one and has saved its state.

    Raises:
        UsageError: The cache, the settings and an earlier run in the folder do not match, or another process uses the
            folder; nothing was started.
        CacheError: The cache is empty, mixed, damaged, or can no longer be read.
        WeightsError: The weights of `--init` do not fit the network.
        TrainingError: The loss is no longer finite.
        DeviceMemoryError: The device does not have enough memory.
    """
    return run_in_folder(config.out, "pretrain", config.running.device, partial(build_run, config), _announce, _finish)


def _announce(run: RegionRun) -> None:
    announce(run)
    if run.processes.first:
        meta = run.store.meta
        console.warn_if(normalisation_warning(meta.encoder, meta.encoder_sha256, meta.mean, meta.std))


def _finish(run: RegionRun) -> None:
    """Write the prototypes of the trained teacher and the curves."""
    if run.slides_with_prototypes() > run.config.prototypes.neighbours:
        run.rebuild_prototypes()
    if run.processes.first:
        out = run.folder.path
        rows = read_metrics(out / METRICS)
        draw_curves(out / CURVES, rows)
        console.warn_if(verdict(rows[-1], run.config.dino_head.out_dim) if rows else "")
