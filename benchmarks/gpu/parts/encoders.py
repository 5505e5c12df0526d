"""Encoders alone: patches per second by batch size and precision, memory, and parity with the CPU."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.cards import measured_tflops, peak_gib, published_tflops, reset_peak, timed
from benchmarks.gpu.place import MissingError, least_cosine, need
from slpd_toolkit.encoders.encoder import Encoder, freeze
from slpd_toolkit.encoders.preset import require_preset
from slpd_toolkit.encoders.registry import make_encoder
from slpd_toolkit.encoders.weights import build_network

if TYPE_CHECKING:
    from benchmarks.gpu.place import Place
    from slpd_toolkit.core.precision import Precision

BATCHES = (32, 64, 128, 256, 512, 1024)
_LEAST_COSINE = {"fp32": 0.99999, "bf16": 0.995, "fp16": 0.9995}


def run(place: Place) -> dict[str, Any]:
    card = torch.cuda.get_device_name() if place.on_gpu else "cpu"
    peak: dict[str, Any] = {"card": card, "published_tflops": published_tflops(card)}
    if place.on_gpu:
        peak["matmul_tflops"] = round(measured_tflops(place.device), 1)
    rows: list[dict[str, Any]] = []
    for name in ("random:vit_tiny",) if place.tiny else ("random:vit_small", "uni"):
        try:
            encoder = untrained(name, patch_px=64 if place.tiny else 256)
        except MissingError as missing:
            place.notes.append(f"{name} is skipped: {missing}")
            continue
        flops = _flops(encoder)
        _check_parity(place, encoder)
        encoder.network.to(place.device)
        for precision in place.all_precisions:
            batches = (4,) if place.tiny else BATCHES if precision == "bf16" else (128,)
            each = {"gflop_per_patch": round(flops / 1e9, 2)}
            rows += [_rate(place, encoder, precision, batch) | each for batch in batches]
        encoder.network.cpu()
    for row in rows:
        row["share_of_peak"] = _share(row, peak["published_tflops"])
        row["share_of_matmul"] = _share(row, peak.get("matmul_tflops"))
    return {"peak": peak, "rates": rows}


def untrained(name: str, *, patch_px: int = 256) -> Encoder:
    """Build an encoder without weights: `random:...`, or the network and the transform of a preset.

    Raises:
        MissingError: timm is needed and not installed.
    """
    if name.startswith("random"):
        return make_encoder(name, weights=None, patch_px=patch_px, seed=0, allow_download=False)
    need("timm")
    preset = require_preset(name)
    torch.manual_seed(0)
    network, transform = freeze(build_network(preset)), preset.transform
    for key, values in network.named_parameters():
        if key.endswith(".gamma"):  # LayerScale starts near 0, where blocks would hardly change the token
            values.fill_(0.1)
    return Encoder(
        name,
        network,
        preset.width,
        transform.input_px,
        transform.mean,
        transform.std,
        "0" * 64,
        transform.resize_px,
        transform.interpolation,
    )


def _flops(encoder: Encoder) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder.network(torch.zeros(1, 3, encoder.input_px, encoder.input_px))
    return int(counter.get_total_flops())


def _check_parity(place: Place, encoder: Encoder) -> None:
    """Compare tokens of the device in every precision with those of the CPU in fp32."""
    generator = torch.Generator().manual_seed(0)
    side = 64 if place.tiny else 256
    pixels = torch.randint(0, 256, (4, side, side, 3), dtype=torch.uint8, generator=generator)
    expected = encoder.embed(pixels, "fp32")
    encoder.network.to(place.device)
    for precision in place.all_precisions:
        found = encoder.embed(pixels.to(place.device), precision)
        place.check(
            f"{encoder.name}: 1 - least cosine of tokens, {precision} on {place.device} vs. fp32 on the CPU",
            1 - least_cosine(expected, found),
            1 - _LEAST_COSINE[precision],
        )


def _rate(place: Place, encoder: Encoder, precision: Precision, batch: int) -> dict[str, Any]:
    """Measure `Encoder.embed` on bytes that are on the device, for at least half a second."""
    side = 64 if place.tiny else 256
    pixels = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8, device=place.device)
    reset_peak(place.device)
    for _ in range(3 if place.on_gpu else 1):
        encoder.embed(pixels, precision)
    once = timed(lambda: encoder.embed(pixels, precision), place.device, 1)
    repeats = 1 if place.tiny else max(3, math.ceil(0.6 / once))
    seconds = timed(lambda: encoder.embed(pixels, precision), place.device, repeats)
    return {
        "encoder": encoder.name,
        "precision": precision,
        "batch": batch,
        "patches_per_s": round(batch / seconds, 1),
        "peak_gib": peak_gib(place.device),
    }


def _share(row: dict[str, Any], tflops: float | None) -> Any:
    if tflops is None or row["precision"] == "fp32":
        return None
    return round(row["patches_per_s"] * row["gflop_per_patch"] / 1000 / tflops, 3)
