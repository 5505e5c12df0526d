"""What a second encoder costs in the same run: CPU seconds of one reading with two ViT-S against its parts.

python -m benchmarks.bench_two_encoders SLIDE [MPP]
"""

from __future__ import annotations

import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from slpd_toolkit.commands import embed
from slpd_toolkit.config.embed import EmbedConfig
from slpd_toolkit.core.console import VERBOSITY
from slpd_toolkit.core.guarded import end_idle_processes
from slpd_toolkit.encoders.registry import make_encoder
from tests.cohorts import mean_colour_encoder

A, B, READING = "random:vit_small", "random:vit_tiny", "handcrafted"
"""Names under which two ViT-S with other seeds, and an encoder that costs nothing, are run."""


def chosen(name: str, **settings: Any) -> Any:
    if name == READING:
        return mean_colour_encoder(name, **settings)
    return make_encoder(A, **(settings | {"seed": int(name == B)}))


def cpu_seconds(encoders: tuple[str, ...], manifest: Path, folder: Path) -> float:
    """Embed with some encoders and return the CPU seconds of this process and its readers."""
    before = _spent()
    config = EmbedConfig(
        manifest=manifest, out=folder / "-".join(encoders).replace(":", "_"), encoder=encoders, patch_px=224
    )
    assert embed.run(config) == 0
    end_idle_processes()  # so that their CPU time is counted
    return _spent() - before


def _spent() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> None:
    slide, mpp = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    torch.set_num_threads(1)
    VERBOSITY.quiet = True
    setattr(embed, "make_encoder", chosen)  # noqa: B010 - not a public name of the module
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        manifest = folder / "m.csv"
        manifest.write_text(f"slide_id,slide_path,mpp\ns,{slide.resolve()},{mpp}\n", encoding="utf-8")
        reading, first, second, both = (
            cpu_seconds(names, manifest, folder) for names in ((READING,), (A,), (B,), (A, B))
        )
    parts = first + second - reading
    print(f"reading {reading:.1f} s, one encoder {first:.1f} s, the other {second:.1f} s, both in one run {both:.1f} s")
    print(f"both / (one reading + two encodings) = {both / parts:.3f}")


if __name__ == "__main__":
    main()
