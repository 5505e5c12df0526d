"""What a card can do at most: published peaks, and the rate of a large matrix product."""

from __future__ import annotations

import time

import torch

DENSE_BF16_TFLOPS = {
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "A40": 150,
    "A30": 165,
    "A10": 125,
    "RTX 4090": 165,
    "RTX 3090": 71,
    "V100": 125,
    "T4": 65,
}
"""Peak of dense bf16 (V100, T4: fp16) matrix products with fp32 accumulation, TFLOP/s, from NVIDIA's data sheets."""


def published_tflops(card: str) -> float | None:
    """Return the published peak of a card, or None if it is not in the table; longer names are tried first."""
    names = sorted(DENSE_BF16_TFLOPS, key=len, reverse=True)
    return next((DENSE_BF16_TFLOPS[name] for name in names if name in card), None)


def measured_tflops(device: str, side: int = 8192) -> float:
    """Measure the rate of bf16 matrix products of random numbers, TFLOP/s."""
    a, b = torch.randn(2, side, side, device=device, dtype=torch.bfloat16)
    for _ in range(3):
        a @ b
    repeats = 10
    seconds = timed(lambda: a @ b, device, repeats)
    return 2 * side**3 / seconds / 1e12


def timed(function: object, device: str, repeats: int) -> float:
    """Return the mean seconds of a call, without a warm-up."""
    assert callable(function)
    wait_for(device)
    started = time.perf_counter()
    for _ in range(repeats):
        function()
    wait_for(device)
    return (time.perf_counter() - started) / repeats


def wait_for(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def peak_gib(device: str) -> float:
    """Return the peak of allocated memory since the last call of `reset_peak`, GiB; 0 on a CPU."""
    return round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if device.startswith("cuda") else 0.0


def reset_peak(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
