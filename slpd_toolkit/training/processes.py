"""One or several training processes: started by torchrun, joined with torch.distributed."""

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
        """Whether this process writes files and messages."""
        return self.rank == 0

    @property
    def joined(self) -> bool:
        """Whether the processes form a group; a group can have one process."""
        return distributed.is_available() and distributed.is_initialized()

    def max(self, *numbers: int) -> tuple[int, ...]:
        """Return the maximum of each number over the processes. All processes must call it."""
        if not self.joined:
            return numbers
        shared = torch.tensor(numbers, dtype=torch.int64, device=self.device)
        distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
        return tuple(shared.tolist())

    def unless_stopped(self, stop: StopRequest, work: Callable[[], T]) -> T:
        """Do work that raises `Stopped` on a stop request; then all processes raise it. All processes must call it.

        Raises:
            Stopped: Any process was asked to stop, before or during the work.
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
        """Return the mean of a tensor over the processes. All processes must call it."""
        if not self.joined:
            return values
        total = values.clone()
        distributed.all_reduce(total)
        return total / self.world

    def share(self, count: int) -> slice:
        """Return this process's contiguous share of `count` items; shares differ by at most one item."""
        return slice(count * self.rank // self.world, count * (self.rank + 1) // self.world)

    def gather(self, part: Tensor, count: int) -> Tensor:
        """Concatenate the `share(count)` of every process along the first dimension. All processes must call it."""
        if not self.joined:
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
    """Join the processes started by torchrun, also a single one, with NCCL on GPUs and Gloo otherwise.

    Args:
        device: As `--device`; under torchrun, `auto` and `cuda` assign one GPU to each local process.

    Raises:
        UsageError: There are fewer GPUs than local processes.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 and not {"LOCAL_RANK", "MASTER_ADDR"} <= os.environ.keys():  # not started by torchrun
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
