"""Accumulates metrics between two rows of metrics.csv without synchronizing with the GPU at every step."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

    from slpd_toolkit.objectives.student_teacher import Losses
    from slpd_toolkit.training.processes import Processes

    T = TypeVar("T")

_NEVER = 2**62


def mean_names(terms: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the means in a row of metrics.csv, for the given terms of the objective."""
    return ("loss", *terms, "target_entropy", "centre_norm", "gradient_norm")


class Meter:
    """Sums metrics on the device; synchronizes only when they are read.

    Args:
        processes: Losses are averaged over all of them.
        terms: Names of the objective's terms.
        sums: Sums of a resumed run since its last row, by name; missing ones start at zero.
        summed: Number of steps in `sums`.
        samples: What is counted per second.
    """

    def __init__(
        self,
        processes: Processes,
        terms: Sequence[str],
        sums: Mapping[str, Tensor] | None,
        summed: int,
        samples: str = "regions",
    ) -> None:
        self._processes, self.names, self._samples = processes, mean_names(terms), samples
        zero = torch.zeros((), device=processes.device)
        self.sums = torch.stack([(sums or {}).get(name, zero) for name in self.names])
        self.summed = summed
        self._first_bad = torch.full((), _NEVER, dtype=torch.int64, device=processes.device)
        self._since, self._waited, self._steps_timed = time.perf_counter(), 0.0, 0

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches and measure the time spent waiting for them."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - asked
            yield batch

    @torch.no_grad()
    def count(self, step: int, losses: Sequence[Losses], centre: Tensor, gradient_norm: Tensor) -> None:
        """Add a step, computed in one or several parts."""
        means = torch.stack(
            [torch.stack([part.total, *part.terms.values(), part.target_entropy]).float() for part in losses]
        ).mean(0)
        values = torch.cat([means, centre.norm().view(1), gradient_norm.float().view(1)])
        self.sums += values
        self.summed += 1
        self._steps_timed += 1
        self._first_bad = torch.where(torch.isfinite(means[0]), self._first_bad, self._first_bad.clamp(max=step))

    def first_bad_step(self) -> int | None:
        """Return the first step with a non-finite loss in any process, or None. Synchronizes with the device."""
        (latest,) = self._processes.max(-int(self._first_bad))
        return None if latest == -_NEVER else -latest

    def shared_sums(self) -> dict[str, Tensor]:
        """Return the mean of the sums over processes, by name, for resuming. All processes must call it."""
        return dict(zip(self.names, self._processes.mean(self.sums), strict=True))

    def row(self, samples_a_step: int) -> dict[str, float]:
        """Return the means since the last call, samples per second and the fraction of time waited; then reset."""
        means = (self._processes.mean(self.sums) / max(1, self.summed)).tolist()
        seconds = time.perf_counter() - self._since
        timed = {
            f"{self._samples}_per_s": round(self._steps_timed * samples_a_step / seconds, 2),
            "data_wait": round(self._waited / seconds, 5),
        }
        self.sums, self.summed = torch.zeros_like(self.sums), 0
        self.restart_clock()
        return dict(zip(self.names, means, strict=True)) | timed

    def restart_clock(self) -> None:
        """Exclude the time since the last row, because work between epochs does not count as training."""
        self._since, self._waited, self._steps_timed = time.perf_counter(), 0.0, 0
