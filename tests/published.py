"""Outputs of the published SLPD code, with their weights and inputs."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class PublishedNumbers:
    """Outputs of the published SLPD code, with their inputs and weights."""

    arrays: dict[str, np.ndarray[Any, Any]]
    meta: dict[str, Any]

    @classmethod
    def read(cls) -> Self:
        """Read numbers printed by the published code (arXiv 2307.10696) on a CPU; weights and inputs are rebuilt."""
        with np.load(Path(__file__).parent / "published_code.npz") as stored:
            arrays = {key: stored[key] for key in stored.files}
        return cls(arrays, json.loads(str(arrays["meta/json"])))

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(self.arrays[key])

    def value(self, name: str, shape: tuple[int, ...], scale: float = 0.02) -> Tensor:
        rng = np.random.default_rng([zlib.crc32(name.encode()), self.meta["seed"]])
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32) * np.float32(scale))

    def input(self, name: str, *shape: int) -> Tensor:
        return self.value(f"input:{name}", shape, 1.0)

    def load_into(self, model: nn.Module) -> None:
        state = {}
        for key, tensor in model.state_dict().items():
            weight = self.value(key, tuple(tensor.shape))
            is_norm = key.endswith("norm.weight") or "norm1.weight" in key or "norm2.weight" in key
            state[key] = torch.ones_like(tensor) if key == "last_layer.weight_g" else weight + is_norm
        model.load_state_dict(state)


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Return the largest deviation relative to the largest expected magnitude."""
    return float((got - expected).abs().max() / expected.abs().max())
