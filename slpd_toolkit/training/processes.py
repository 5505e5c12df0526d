"""One or many processes: started by torchrun, joined by torch.distributed, hardly visible to the loop."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, distributed

from slpd_toolkit.core.compute import resolve_device
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.training.signals import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slpd_toolkit.training.signals import StopRequest

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among `world`."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def max(self, *numbers: int) -> tuple[int, ...]:
        """The largest that any process has of each number. All must call it."""
        if self.world == 1:
            return numbers
        shared = torch.tensor(numbers, dtype=torch.int64, device=self.device)
        distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
        return tuple(shared.tolist())

    def unless_stopped(self, stop: StopRequest, work: Callable[[], T]) -> T:
        """Do work that leaves by `Stopped` when this process is asked to stop; if one is, all leave. All must call it.

        Raises:
            Stopped: Some process was asked to stop, before or during the work.
        """
        try:
            done = work()
        except Stopped:
            self._leave_together(stop)
            raise
        self._leave_together(stop)
        return done

    def _leave_together(self, stop: StopRequest) -> None:
        (stop.exit_code,) = self.max(stop.exit_code)
        stop.leave_if_asked()

    def mean(self, values: Tensor) -> Tensor:
        """Mean of a tensor over the processes. All must call it."""
        if self.world == 1:
            return values
        total = values.clone()
        distributed.all_reduce(total)
        return total / self.world

    def share(self, count: int) -> slice:
        """This process's part of `count` things, in runs that differ by at most one."""
        return slice(count * self.rank // self.world, count * (self.rank + 1) // self.world)

    def gather(self, part: Tensor, count: int) -> Tensor:
        """Join every process's `share(count)` along the first dimension. All must call it."""
        if self.world == 1:
            return part
        longest = -(-count // self.world)
        padded = part.new_zeros((longest, *part.shape[1:]))
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        distributed.all_gather(parts, padded.contiguous())
        lengths = [count * (rank + 1) // self.world - count * rank // self.world for rank in range(self.world)]
        return torch.cat([whole[:length] for whole, length in zip(parts, lengths, strict=True)])


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started, with nccl on GPUs and gloo elsewhere; one process needs neither.

    Args:
        device: As `--device`; under torchrun `auto` and `cuda` give each local process a GPU of its own.

    Raises:
        UsageError: There are fewer GPUs than local processes.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes(0, 1, resolve_device(device))
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    if device in {"auto", "cuda"} and torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"torchrun: local process {local_rank} has no GPU; this node has {torch.cuda.device_count()}.",
                hint="Lower --nproc-per-node, or use --device cpu.",
            )
        torch.cuda.set_device(local_rank)
        chosen = torch.device("cuda", local_rank)
    else:
        chosen = resolve_device(device)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(distributed.get_rank(), world, chosen)
    finally:
        distributed.destroy_process_group()
