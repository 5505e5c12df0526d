"""`slpd pretrain`: train the region ViT on a token cache. The training loop is `training.loop.train`."""

from __future__ import annotations

from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from slpd_toolkit.core import compute, console
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.folder_lock import working_in
from slpd_toolkit.encoders.cache_check import normalisation_warning
from slpd_toolkit.models.region_vit import REGION_VIT
from slpd_toolkit.report.curves import draw_curves
from slpd_toolkit.training.loop import train
from slpd_toolkit.training.metrics_file import read_metrics
from slpd_toolkit.training.processes import join_processes
from slpd_toolkit.training.recorder import Recorder
from slpd_toolkit.training.run_folder import CURVES, METRICS
from slpd_toolkit.training.setup import announce, build_run
from slpd_toolkit.training.signals import Stopped, stop_requests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slpd_toolkit.config.pretrain import PretrainConfig
    from slpd_toolkit.training.processes import Processes
    from slpd_toolkit.training.setup import Run


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
    with (
        compute.explain_out_of_memory(
            "Raise --accumulate (same result, less memory) or lower --batch-size, and resume."
        ),
        join_processes(config.device) as processes,
        stop_requests() as stop,
        _alone_in(config.out, processes),
    ):
        try:
            with closing(build_run(config, processes, stop)) as run:
                return _train_and_finish(run)
        except Stopped:
            if processes.first:
                console.note("Stopped between steps. Run the same command again to resume.")
            return stop.exit_code


@contextmanager
def _alone_in(folder: Path, processes: Processes) -> Iterator[None]:
    """Lock the run folder in the first process; the others stop if it cannot. All processes must call this.

    Raises:
        UsageError: Another run uses the folder, or the folder is not writable.
    """
    with ExitStack() as held:
        refusal = None
        if processes.first:
            try:
                held.enter_context(working_in(folder, "pretrain"))
            except UsageError as error:
                refusal = error
        (refused,) = processes.max(int(refusal is not None))
        if refused:
            raise refusal or UsageError(f"{folder} cannot be used: see the message of the first process.")
        yield


def _train_and_finish(run: Run) -> int:
    out = run.folder.path
    if not run.steps_left and (out / CURVES).exists():  # the last file that a run writes
        run.say(f"{out} is complete ({run.plan.steps} steps). Weights: {out / REGION_VIT}.")
        return 0
    announce(run)
    if run.processes.first:
        meta = run.store.meta
        console.warn_if(normalisation_warning(meta.encoder, meta.encoder_sha256, meta.mean, meta.std))
    with console.progress("pretrain", total=run.steps_left, unit="steps", shown=run.processes.first) as bar:
        recorder = Recorder(run, bar)
        train(run.state, run.plan, run.source, recorder.meter.waiting(run.batches()), recorder)
    if run.steps_left:
        run.say(f"Stopped at step {run.state.progress.step:,}. Run the same command again to resume.")
        return run.stop.exit_code
    if run.slides_with_prototypes() > run.config.prototypes.neighbours:
        run.rebuild_prototypes()
    if run.processes.first:
        draw_curves(out / CURVES, read_metrics(out / METRICS))
        run.say(f"Done. Weights: {out / REGION_VIT}; curves: {out / CURVES}.")
    return 0
