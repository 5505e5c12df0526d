"""Encode real tiles once under the stain and scanner of each of several sites: the material of semi-real cohorts.

    python -m benchmarks.semireal.tiles FOLDER --out runs/tiles.npz --sites 4 --batches 3

FOLDER contains one folder of tiles per tissue, e.g. the 2 000 colon tiles of the Colorectal_Carcinoma_Classifier
repository. Transforms act on pixels, so that tokens change as the encoder itself changes, not by a guess in its space:

- of a site: colors and strengths of hematoxylin and eosin, the color of the glass, gamma of each channel, focus (a
  Gaussian blur) and JPEG quality;
- of a staining batch of the site: smaller changes of the same colors and strengths.

Transform 0 leaves the tiles as they are; transform 1 + batches * site + batch is that of a site and batch. Encoded
transforms are kept beside the output, so that an interrupted call can be resumed. The output contains no pixels.
`--stain-views 2` also encodes each transform under random changes of stain, as `slpd embed --stain-views` does.
"""

from __future__ import annotations

import argparse
import io
import itertools
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from PIL import Image

from slpd_toolkit.core.files import atomic_path
from slpd_toolkit.encoders.stain import StainChange, draw_stain_change, restain, stain_of_view

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slpd_toolkit.encoders.encoder import Encoder

TISSUES = ("AC", "H", "T", "V")
"""Adenocarcinoma, healthy, tubular and villous tissue: the first is the tumor of `Planted.tumor_share`."""
BATCH = 32
_SITE_GAIN, _SITE_HUE = 0.35, 0.06
_BATCH_GAIN, _BATCH_HUE = 0.12, 0.02
_DARKEST_GLASS, _GLASS_TINT, _GAMMA, _BLUR_PX = 0.88, 0.02, 0.1, 1.0
_JPEG = (60, 96)


@dataclass(frozen=True)
class Scanner:
    """What a scanner does after the light has passed the slide."""

    glass: tuple[float, float, float]
    """Factor of red, green and blue."""
    gamma: tuple[float, float, float]
    """Exponent of red, green and blue."""
    focus_px: float
    """Sigma of a Gaussian blur."""
    jpeg_quality: int


@dataclass(frozen=True)
class Transform:
    """Stain and scanner of one staining batch of a site."""

    site: int
    batch: int
    stain: StainChange
    scanner: Scanner

    def apply(self, tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Transform one (H, W, 3) RGB tile."""
        import cv2  # cohorts of tiles that are already encoded need neither OpenCV nor encoders

        stained = restain(torch.tensor(tile), self.stain).numpy().astype(np.float32) / 255
        scanned = np.array(self.scanner.glass, np.float32) * stained ** np.array(self.scanner.gamma, np.float32)
        blurred = cv2.GaussianBlur(scanned, (0, 0), self.scanner.focus_px)
        buffer = io.BytesIO()
        Image.fromarray(np.rint(255 * blurred).astype(np.uint8)).save(buffer, "JPEG", quality=self.scanner.jpeg_quality)
        return np.asarray(Image.open(buffer).convert("RGB"))


@dataclass(frozen=True, eq=False)
class Tiles:
    """Encoded tiles: T transforms of N tiles, D features."""

    tokens: NDArray[np.float16]
    """(T, N, D); transform 0 is none."""
    kind: NDArray[np.int64]
    """(N,) index of the tissue."""
    site: NDArray[np.int64]
    """(T,) site of each transform; -1 for none."""
    tissues: NDArray[np.str_]
    """Names of the tissues."""
    encoder_sha256: str
    stained: NDArray[np.float16]
    """(V, T, N, D): each transform also under V random changes of stain, as `slpd embed --stain-views` makes them."""

    @classmethod
    def read(cls, path: Path) -> Self:
        with np.load(path) as stored:
            values = {name: stored[name] for name in ("tokens", "kind", "site", "tissues")}
            stained = stored["stained"] if "stained" in stored else np.zeros(0, np.float16)
            return cls(**values, encoder_sha256=str(stored["encoder_sha256"]), stained=stained)


def draw_transforms(sites: int, batches: int, seed: int) -> list[Transform]:
    """Draw the transform of every staining batch of every site; independent of the numbers of sites and batches."""
    found = []
    for site in range(sites):
        rng = np.random.default_rng([seed, site])
        stain = draw_stain_change(rng, gain=_SITE_GAIN, hue=_SITE_HUE)
        light = rng.uniform(_DARKEST_GLASS, 1.0)
        scanner = Scanner(
            glass=_three(np.minimum(light + rng.uniform(-_GLASS_TINT, _GLASS_TINT, 3), 1.0)),
            gamma=_three(np.exp(rng.uniform(-_GAMMA, _GAMMA) + rng.normal(0, _GAMMA / 4, 3))),
            focus_px=float(rng.uniform(0.3, _BLUR_PX)),
            jpeg_quality=int(rng.integers(*_JPEG)),
        )
        for batch in range(batches):
            change = draw_stain_change(np.random.default_rng([seed, site, batch]), gain=_BATCH_GAIN, hue=_BATCH_HUE)
            found.append(Transform(site, batch, stain.then(change), scanner))
    return found


def read_tiles(folder: Path, tissue: str, per_tissue: int) -> list[NDArray[np.uint8]]:
    """Read the tiles of a tissue, evenly spaced in order of name."""
    paths = sorted(path for path in (folder / tissue).iterdir() if path.suffix.lower() in {".jpg", ".png", ".tif"})
    chosen = np.linspace(0, len(paths) - 1, min(per_tissue, len(paths))).round().astype(int)
    return [np.asarray(Image.open(paths[number]).convert("RGB")) for number in chosen]


def encode(
    encoder: Encoder, tiles: list[NDArray[np.uint8]], transform: Transform | None, view: int = 0, seed: int = 0
) -> NDArray[np.float16]:
    """Encode (H, W, 3) tiles under a transform, (N, D), and then under the stain of a view, if it is not 0."""
    parts = []
    for first in range(0, len(tiles), BATCH):
        batch = [tile if transform is None else transform.apply(tile) for tile in tiles[first : first + BATCH]]
        pixels = torch.from_numpy(np.stack(batch)).to(next(encoder.network.parameters(), torch.empty(0)).device)
        if view:
            pixels = restain(pixels, stain_of_view(view, name_of(transform), seed))
        parts.append(encoder.embed(pixels, "fp32").cpu().numpy().astype(np.float16))
    return np.concatenate(parts)


def name_of(transform: Transform | None) -> str:
    """Name a transform."""
    return "none" if transform is None else f"site{transform.site}-batch{transform.batch}"


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = values.tolist()
    return red, green, blue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tissues", nargs="+", default=TISSUES)
    parser.add_argument("--per-tissue", type=int, default=400)
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--batches", type=int, default=3, help="staining batches per site")
    parser.add_argument("--stain-views", type=int, default=0, help="random changes of stain of each transform")
    parser.add_argument("--encoder", default="efficientnet-lite0")
    parser.add_argument("--device", default="cpu", help="device of the encoder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop-after-s", type=float, default=float("inf"), help="stop after this many seconds")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    started = time.perf_counter()
    of_tissues = [read_tiles(args.folder, tissue, args.per_tissue) for tissue in args.tissues]
    tiles = [tile for each in of_tissues for tile in each]
    from slpd_toolkit.encoders.registry import make_encoder

    encoder = make_encoder(args.encoder, weights=None, patch_px=len(tiles[0]), seed=0, allow_download=False)
    encoder.network.to(args.device)
    transforms: list[Transform | None] = [None, *draw_transforms(args.sites, args.batches, args.seed)]
    kept = args.out.with_suffix(".parts")
    kept.mkdir(parents=True, exist_ok=True)
    # Batch by batch, so that all sites can be used as soon as their first batch is there.
    order = sorted(transforms, key=lambda transform: transform.batch if transform else 0)
    for view, transform in itertools.product(range(args.stain_views + 1), order):
        part = kept / f"{name_of(transform)}{f'-view{view}' if view else ''}.npy"
        if part.exists():
            continue
        if time.perf_counter() - started > args.stop_after_s:
            print("stopped: run again to resume")
            return
        tokens = encode(encoder, tiles, transform, view, args.seed)
        with atomic_path(part) as partial, partial.open("wb") as file:
            np.save(file, tokens)
        print(part.stem, asdict(transform) if transform else "", f"{time.process_time():.0f} CPU s", flush=True)
    encoded, *stained = (
        np.stack([np.load(kept / f"{name_of(each)}{f'-view{view}' if view else ''}.npy") for each in transforms])
        for view in range(args.stain_views + 1)
    )
    with atomic_path(args.out) as partial, partial.open("wb") as file:
        np.savez(
            file,
            tokens=encoded,
            kind=np.repeat(np.arange(len(of_tissues)), [len(each) for each in of_tissues]),
            site=np.array([-1 if transform is None else transform.site for transform in transforms]),
            tissues=np.array(args.tissues),
            encoder_sha256=encoder.weights_sha256,
            stained=np.array(stained, np.float16),
        )
    print(args.out, encoded.shape)


if __name__ == "__main__":
    main()
