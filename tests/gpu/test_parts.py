"""Every CUDA path against the CPU: the parts of `make gpu`, in small sizes. Skipped where there is no CUDA device."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from benchmarks.gpu.__main__ import PARTS, Options, run_apart

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", PARTS)
def test_a_part(name: str, tmp_path: Path) -> None:
    part = run_apart(name, Options(device="cuda", tiny=True, out=tmp_path))
    assert part["status"] == "passed", json.dumps(part, indent=2)
