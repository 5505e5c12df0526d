"""Real training processes, forked from a server that has imported torch, so that starting them is cheap."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

import torch

from slpd_toolkit.cli import app as cli
from slpd_toolkit.commands import pretrain, pretrain_slides
from slpd_toolkit.config.pretrain import PretrainConfig
from slpd_toolkit.config.pretrain_slides import PretrainSlidesConfig
from slpd_toolkit.training import state
from tests.training.runs import sgd

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

FILE_EVENTS = frozenset({"open", "os.rename", "os.remove", "tempfile.mkstemp", "os.chmod"})
PATIENCE_S = 120

Config = PretrainConfig | PretrainSlidesConfig


def start(
    config: Config,
    *,
    number: int = 0,
    event: int = 0,
    environment: dict[str, str] | None = None,
    plain_sgd: bool = False,
) -> BaseProcess:
    """Train like the command of the settings; signal `number` is sent at an event in the run folder (0: never)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "tests.training.runs", "faiss", "matplotlib.figure"])
    process = context.Process(target=_train, args=(config, number, event, environment or {}, plain_sgd))
    process.start()
    return process


def exit_code(process: BaseProcess) -> int | None:
    """Wait for a process and return its exit code; None if it hangs."""
    process.join(PATIENCE_S)
    code: int | None = process.exitcode
    if code is None:
        process.kill()
    return code


def start_two(config: Config, *, number: int = 0, event: int = 0, plain_sgd: bool = False) -> list[BaseProcess]:
    """Start two processes like torchrun; the signal is sent to the first."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        start(
            config,
            number=number,
            event=event if rank == 0 else 0,
            environment={"RANK": str(rank), "LOCAL_RANK": str(rank)} | common,
            plain_sgd=plain_sgd,
        )
        for rank in range(2)
    ]


def _train(config: Config, number: int, event: int, environment: dict[str, str], plain_sgd: bool) -> None:
    if plain_sgd:
        state.make_optimiser = sgd  # type: ignore[attr-defined]
    torch.set_num_threads(1)
    os.environ.update(environment)
    left = iter(range(event - 1, -1, -1))
    folder = str(config.out)

    def count(name: str, arguments: tuple[object, ...]) -> None:
        if name in FILE_EVENTS and str(arguments[0]).startswith(folder) and next(left, None) == 0:
            os.kill(os.getpid(), number)

    sys.addaudithook(count)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        cli._guarded(
            lambda: pretrain.run(config) if isinstance(config, PretrainConfig) else pretrain_slides.run(config)
        )
    except Exception as error:  # noqa: BLE001 - typer's Exit carries the code
        sys.exit(getattr(error, "exit_code", repr(error)))
