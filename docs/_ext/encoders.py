"""The table of docs/encoders.md, made from the registry of encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit.encoders.preset import presets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slpd_toolkit.encoders.preset import Preset

_NOT_ON_THE_HUB = ("github.com/", "slpd_toolkit", "efficientnet-lite0-")


def table() -> Iterator[str]:
    """One row per encoder."""
    yield "| `--encoder` | what | width | patch px @ um/px | seen px | pooling | licence | weights |"
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
