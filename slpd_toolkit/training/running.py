"""Training in a run folder, from the start to a complete run or an orderly stop; shared by the training commands."""

from __future__ import annotations

from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, TypeVar

from slpd_toolkit.core import compute, console
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.folder_lock import working_in
from slpd_toolkit.core.text import count
from slpd_toolkit.training.loop import train
from slpd_toolkit.training.processes import join_processes
from slpd_toolkit.training.recorder import Recorder
from slpd_toolkit.training.run import Run
from slpd_toolkit.training.run_folder import CURVES
from slpd_toolkit.training.signals import Stopped, stop_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slpd_toolkit.training.processes import Processes
    from slpd_toolkit.training.signals import StopRequest

R = TypeVar("R", bound=Run)


def run_in_folder(
    folder: Path,
    command: str,
    device: str,
    build: Callable[[Processes, StopRequest], R],
    announce: Callable[[R], None],
    finish: Callable[[R], None],
) -> int:
    """Train, or resume training, in a run folder.

    Args:
        folder: The run folder; locked while the run works.
        command: Name of the command.
        device: As `--device`.
        build: Builds the run, or restores it from its folder.
        announce: Prints what the run trains on. Called unless the run is complete.
        finish: Writes the last files, of which curves.svg is the last, after the last step.

    Returns:
        0 if the run is complete; 128 plus the number of the signal if it was stopped by one and has saved its state.
    """
    with (
        compute.explain_out_of_memory(
            "Raise --accumulate (same result, less memory) or lower --batch-size, and resume."
        ),
        join_processes(device) as processes,
        stop_requests() as stop,
        _alone_in(folder, command, processes),
    ):
        try:
            with closing(build(processes, stop)) as run:
                return _train_and_finish(run, command, announce, finish)
        except Stopped:
            if processes.first:
                console.note("Stopped between steps. Run the same command again to resume.")
            return stop.exit_code


@contextmanager
def _alone_in(folder: Path, command: str, processes: Processes) -> Iterator[None]:
    """Lock the run folder in the first process; the others stop if it cannot. All processes must call this.

    Raises:
        UsageError: Another run uses the folder, or the folder is not writable.
    """
    with ExitStack() as held:
        refusal = None
        if processes.first:
            try:
                held.enter_context(working_in(folder, command))
            except UsageError as error:
                refusal = error
        (refused,) = processes.max(int(refusal is not None))
        if refused:
            raise refusal or UsageError(f"{folder} cannot be used: see the message of the first process.")
        yield


def _train_and_finish(run: R, command: str, announce: Callable[[R], None], finish: Callable[[R], None]) -> int:
    weights = run.folder.weights
    if not run.steps_left and (run.folder.path / CURVES).exists():
        run.say(f"{run.folder.path} is complete ({count(run.plan.steps, 'step')}). Weights: {weights}.")
        return 0
    announce(run)
    with console.progress(command, total=run.steps_left, unit="steps", shown=run.processes.first) as bar:
        recorder = Recorder(run, bar)
        train(run.state, run.plan, run.source, recorder.meter.waiting(run.batches()), recorder)
    if run.steps_left:
        run.say(f"Stopped at step {run.state.progress.step:,}. Run the same command again to resume.")
        return run.stop.exit_code
    finish(run)
    run.say(f"Done. Weights: {weights}; curves: {run.folder.path / CURVES}.")
    return 0
