"""How good are the encoders that need no download? Linear probe and 5-NN on tiles with a class, same and other stain.

    python -m benchmarks.encoders FOLDER --encoder efficientnet-lite0 --into benchmarks/results/encoders.json

FOLDER contains one folder of tiles per class. Tiles are encoded under their own stain and under others: optical
densities are separated into hematoxylin, eosin and rest (Ruifrok and Johnston 2001), each is multiplied by a factor,
and RGB is composed from the result. Folds are stratified by class. A head is trained on tiles under their own stain
and tested on the left-out fold, under its own stain and under each other one. The slide of each tile is unknown, so
tiles of one slide may be in both parts and be recognized by their stain, which favors color statistics.

The probe is multinomial logistic regression on standardized features, with C chosen in an inner three-fold
cross-validation. Each call adds one encoder to the JSON file. `--keep` stores features, so that an interrupted call
can be resumed.
"""

from __future__ import annotations

import argparse
import hashlib
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.measure import add_to_report
from slpd_toolkit.encoders.handcrafted import STAINS
from slpd_toolkit.encoders.registry import make_encoder

if TYPE_CHECKING:
    import numpy.typing as npt

    from slpd_toolkit.encoders.encoder import Encoder

RESTAINED = {
    "own stain": (1.0, 1.0, 1.0),
    "pale": (0.8, 0.8, 1.0),
    "dark": (1.25, 1.25, 1.0),
    "more hematoxylin": (1.25, 0.8, 1.0),
    "more eosin": (0.8, 1.25, 1.0),
}
"""Factors of the amounts of hematoxylin, eosin and rest."""
FOLDS, NEIGHBORS, BATCH = 5, 5, 32
_GRID = {"logisticregression__C": [1e-3, 1e-2, 1e-1, 1.0, 10.0]}


def restain(pixels: npt.NDArray[np.uint8], factors: tuple[float, float, float]) -> npt.NDArray[np.uint8]:
    """Multiply the amounts of each stain in (..., 3) RGB; factors of 1 leave pixels unchanged."""
    if factors == (1.0, 1.0, 1.0):
        return pixels
    stains = np.array(STAINS) / np.linalg.norm(STAINS, axis=1, keepdims=True)
    density = -np.log(np.maximum(np.arange(256, dtype=np.float32), 1) / 255)[pixels]
    changed = density @ (np.linalg.inv(stains) @ np.diag(factors) @ stains).astype(np.float32)
    restained: npt.NDArray[np.uint8] = np.clip(np.rint(255 * np.exp(-changed)), 0, 255).astype(np.uint8)
    return restained


def read_tiles(folder: Path, per_class: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.str_]]:
    """Read tiles of each class, evenly spaced in order of name: (N, H, W, 3), and their (N,) class names."""
    chosen = []
    for of_class in sorted(path for path in folder.iterdir() if path.is_dir()):
        paths = sorted(path for path in of_class.iterdir() if path.suffix.lower() in {".jpg", ".png", ".tif"})
        chosen += [
            paths[number] for number in np.linspace(0, len(paths) - 1, min(per_class, len(paths))).round().astype(int)
        ]
    tiles = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in chosen])
    return tiles, np.array([path.parent.name for path in chosen])


def features(
    encoder: Encoder, tiles: npt.NDArray[np.uint8], factors: tuple[float, float, float]
) -> npt.NDArray[np.float32]:
    """Embed tiles with another stain: (N, embedding_dim)."""
    batches = (restain(tiles[first : first + BATCH], factors) for first in range(0, len(tiles), BATCH))
    return torch.cat([encoder.embed(torch.from_numpy(batch), "fp32") for batch in batches]).numpy()


def accuracies(
    by_stain: dict[str, npt.NDArray[np.float32]], labels: npt.NDArray[np.str_]
) -> dict[str, dict[str, list[float]]]:
    """Return the accuracy per head, stain of the test tiles, and fold."""
    scores: dict[str, dict[str, list[float]]] = {"probe": {}, "5-NN": {}}
    own = by_stain["own stain"]
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(own, labels):
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
        heads = {
            "probe": GridSearchCV(probe, _GRID, cv=StratifiedKFold(3, shuffle=True, random_state=1)),
            "5-NN": make_pipeline(StandardScaler(), KNeighborsClassifier(NEIGHBORS)),
        }
        for name, head in heads.items():
            head.fit(own[train], labels[train])
            for stain, tokens in by_stain.items():
                scores[name].setdefault(stain, []).append(float(head.score(tokens[test], labels[test])))
    return scores


def measure(name: str, tiles: npt.NDArray[np.uint8], labels: npt.NDArray[np.str_], keep: Path) -> dict[str, Any]:
    """Measure width, CPU time per tile, and accuracies of one encoder."""
    encoder = make_encoder(name, weights=None, patch_px=tiles.shape[1], seed=0, allow_download=False)
    started = time.process_time()
    features(encoder, tiles[:BATCH], (1.0, 1.0, 1.0))
    cpu_s = time.process_time() - started
    by_stain = {}
    for stain, factors in RESTAINED.items():
        path = keep / f"{name} {stain}.npy"
        if not path.exists():
            np.save(path, features(encoder, tiles, factors))
        by_stain[stain] = np.load(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        scores = accuracies(by_stain, labels)
    return {
        "width": encoder.embedding_dim,
        "cpu_ms_per_tile": round(1e3 * cpu_s / BATCH, 1),
        **{
            head: {
                stain: {"mean": round(float(np.mean(each)), 4), "folds": [round(value, 4) for value in each]}
                for stain, each in of_head.items()
            }
            for head, of_head in scores.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--per-class", type=int, default=120)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--into", type=Path, required=True)
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    tiles, labels = read_tiles(options.folder, options.per_class)
    shared = {
        "tiles": len(tiles),
        "classes": sorted(set(labels.tolist())),
        "tiles_sha256": hashlib.sha256(tiles.tobytes()).hexdigest(),
        "stain_factors": RESTAINED,
    }
    add_to_report(options.into, "tiles", shared, options.encoder, measure(options.encoder, tiles, labels, options.keep))


if __name__ == "__main__":
    main()
