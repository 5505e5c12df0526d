"""Where a part runs, what it needs, and how it records checks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from slpd_toolkit.core.precision import Precision


class MissingError(Exception):
    """The part needs a package that is not installed."""


@dataclass
class Place:
    """Device and folder of one part, and the checks that it made.

    Args:
        device: Name of the device that is compared with the CPU.
        tiny: Whether sizes are reduced until a CPU can run them; figures then mean nothing.
        folder: Empty folder of this part.
    """

    device: str
    tiny: bool
    folder: Path
    checks: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Reduced precisions that the device supports."""
        return ("bf16", "fp16") if self.on_gpu else ()

    @property
    def all_precisions(self) -> tuple[Precision, ...]:
        return ("fp32", *self.precisions)

    def check(self, what: str, found: float, limit: float) -> None:
        """Record a check that `found` is a number not above `limit`."""
        self.checks.append(
            {"what": what, "found": float(found), "limit": limit, "ok": math.isfinite(found) and found <= limit}
        )

    def require(self, what: str, *, ok: bool) -> None:
        """Record a check that something holds."""
        self.checks.append({"what": what, "ok": bool(ok)})


def need(*packages: str) -> None:
    """Check that packages are installed.

    Raises:
        MissingError: One is not; the part is skipped.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise MissingError(f"needs {', '.join(missing)}, which is not installed")


def is_installed(package: str) -> bool:
    return find_spec(package) is not None


def prepare() -> list[str]:
    """Make up for packages that the commands need and this machine lacks; return what was replaced.

    Must be called before the commands are imported.
    """
    notes = []
    if not is_installed("faiss"):
        _cluster_with_sklearn()
        notes.append("faiss is not installed: slides are clustered by scikit-learn")
    if not is_installed("rich"):
        _print_plainly()
        notes.append("rich is not installed: messages are printed plainly, tables are not shown")
    return notes


def _cluster_with_sklearn() -> None:
    from contextlib import nullcontext

    import numpy as np
    from sklearn.cluster import KMeans

    from slpd_toolkit.core import vectors

    def kmeans(values: Any, k: int, *, seed: int = 0, iterations: int = 10, restarts: int = 5) -> Any:
        found = KMeans(k, init="random", n_init=restarts, max_iter=iterations, random_state=seed).fit(values)
        return found.cluster_centers_.astype(np.float32), found.labels_.astype(np.int64)

    vectors.kmeans = kmeans  # type: ignore[assignment]
    vectors.one_faiss_thread = nullcontext  # type: ignore[assignment]


def _print_plainly() -> None:
    import sys

    from slpd_toolkit.core import console

    class Plain:
        is_terminal = False

        def print(self, text: str, **_: Any) -> None:
            sys.stderr.write(f"{text}\n")

    console._console = lambda **_: Plain()  # type: ignore[assignment]  # noqa: SLF001
    console.table = console.facts = lambda *_: None  # type: ignore[assignment]


def relative_difference(one: Any, other: Any) -> float:
    """Return the norm of the difference of two arrays or lists of numbers, relative to that of the first."""
    a, b = (torch.as_tensor(each).double().cpu() for each in (one, other))
    return float((a - b).norm() / a.norm().clamp(min=1e-30))


def least_cosine(one: Any, other: Any) -> float:
    """Return the smallest cosine between corresponding rows of two arrays (N, D)."""
    a, b = (torch.as_tensor(each).double().cpu() for each in (one, other))
    return float(torch.nn.functional.cosine_similarity(a, b, dim=-1).min())


def rounded(values: Sequence[float], digits: int = 3) -> list[float]:
    return [round(value, digits) for value in values]
