"""The tables of docs/encoders.md: the registry of encoders, and how those that need no download compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slpd_toolkit.encoders.preset import presets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slpd_toolkit.encoders.preset import Preset

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "encoders.json"
_OWN_STAIN = "own stain"
_NOT_ON_THE_HUB = ("github.com/", "slpd_toolkit", "efficientnet-lite0-")


def table() -> Iterator[str]:
    """One row per encoder."""
    yield "| `--encoder` | what | width | patch px @ um/px | seen px | pooling | license | weights |"
    yield "|---|---|---|---|---|---|---|---|"
    for preset in presets().values():
        scales = ", ".join(map(str, preset.scales))
        seen = str(preset.transform.input_px or "the patch")
        terms = preset.terms.licence + (", gated" if preset.terms.gated else "")
        cells = (
            f"`{preset.name}`",
            preset.about,
            str(preset.width),
            scales,
            seen,
            preset.pooling,
            terms,
            _where(preset),
        )
        yield "| " + " | ".join(cells) + " |"


def _where(preset: Preset) -> str:
    publisher = preset.terms.publisher
    if preset.weights.kind in {"none", "seed"}:
        return "none"
    if publisher.startswith("github.com/"):
        return f"[{publisher}](https://{publisher})"
    if publisher.startswith(_NOT_ON_THE_HUB):
        return publisher
    return f"[{publisher}](https://huggingface.co/{publisher})"


def offline_table() -> Iterator[str]:
    """One row per encoder that was measured on tiles, best under another stain first."""
    measured: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))["tiles"]["measured"]
    yield "| encoder | probe, own stain | probe, others | 5-NN, own stain | 5-NN, others | CPU ms per tile |"
    yield "|---|---|---|---|---|---|"
    for name, found in sorted(measured.items(), key=lambda item: -min(_others(item[1]["probe"]))):
        cells = [f"`{name}`"]
        for head in ("probe", "5-NN"):
            others = _others(found[head])
            cells += [f"{found[head][_OWN_STAIN]['mean']:.3f}", f"{min(others):.3f} to {max(others):.3f}"]
        yield "| " + " | ".join([*cells, f"{found['cpu_ms_per_tile']:.0f}"]) + " |"


def _others(of_head: dict[str, dict[str, float]]) -> list[float]:
    return [of_stain["mean"] for stain, of_stain in of_head.items() if stain != _OWN_STAIN]
