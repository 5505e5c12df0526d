"""How good are the encoders that need no download? Linear probe and 5-NN on tiles with a class, same and other stain.

    python -m benchmarks.encoders FOLDER > benchmarks/results/encoders.json

FOLDER holds one folder of tiles per class. Tiles are encoded under their own stain and under others: optical densities
are separated into haematoxylin, eosin and rest (Ruifrok and Johnston 2001), each is multiplied by a factor, and RGB is
put together again. Folds are stratified by class; a head is trained on tiles under their own stain and tested on those
of the left-out fold, under their own stain and under each other one. Which slide a tile is from is not known, so tiles
of one slide may be in both parts: stain may give slides away, and that favours colour statistics.

The probe is multinomial logistic regression on standardised features, C chosen in an inner three-fold cross-validation.
"""

from __future__ import annotations

import argparse
import hashlib
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

from benchmarks.measure import report
from slpd_toolkit.encoders.handcrafted import STAINS
from slpd_toolkit.encoders.registry import make_encoder

if TYPE_CHECKING:
    import numpy.typing as npt

    from slpd_toolkit.encoders.encoder import Encoder

ENCODERS = ("random", "random:vit_small", "handcrafted", "efficientnet-lite0")
RESTAINED = {
    "own stain": (1.0, 1.0, 1.0),
    "pale": (0.8, 0.8, 1.0),
    "dark": (1.25, 1.25, 1.0),
    "more haematoxylin": (1.25, 0.8, 1.0),
    "more eosin": (0.8, 1.25, 1.0),
}
"""Factors of the amounts of haematoxylin, eosin and rest."""
FOLDS, NEIGHBOURS, BATCH = 5, 5, 32
_GRID = {"logisticregression__C": [1e-4, 1e-3, 1e-2, 1e-1, 1.0]}


def restain(pixels: npt.NDArray[np.uint8], factors: tuple[float, float, float]) -> npt.NDArray[np.uint8]:
    """Multiply the amounts of each stain: (..., 3) RGB to the same; factors of one change nothing."""
    stains = np.array(STAINS) / np.linalg.norm(STAINS, axis=1, keepdims=True)
    density = -np.log(np.maximum(pixels, 1) / 255.0)
    changed = density @ np.linalg.inv(stains) @ np.diag(factors) @ stains
    restained: npt.NDArray[np.uint8] = np.clip(np.rint(255 * np.exp(-changed)), 0, 255).astype(np.uint8)
    return restained


def read_tiles(folder: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.str_]]:
    paths = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in {".jpg", ".png", ".tif"})
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths]), np.array(
        [path.parent.name for path in paths]
    )


def features(encoder: Encoder, tiles: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    batches = [torch.from_numpy(tiles[first : first + BATCH]) for first in range(0, len(tiles), BATCH)]
    return torch.cat([encoder.embed(batch, "fp32") for batch in batches]).numpy()


def accuracies(
    by_stain: dict[str, npt.NDArray[np.float32]], labels: npt.NDArray[np.str_]
) -> dict[str, dict[str, list[float]]]:
    """Accuracy per head, stain of the test tiles, and fold."""
    scores: dict[str, dict[str, list[float]]] = {"probe": {}, "5-NN": {}}
    own = by_stain["own stain"]
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(own, labels):
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
        heads = {
            "probe": GridSearchCV(probe, _GRID, cv=StratifiedKFold(3, shuffle=True, random_state=1)),
            "5-NN": make_pipeline(StandardScaler(), KNeighborsClassifier(NEIGHBOURS)),
        }
        for name, head in heads.items():
            head.fit(own[train], labels[train])
            for stain, tokens in by_stain.items():
                scores[name].setdefault(stain, []).append(float(head.score(tokens[test], labels[test])))
    return scores


def measure(name: str, tiles: npt.NDArray[np.uint8], labels: npt.NDArray[np.str_]) -> dict[str, Any]:
    encoder = make_encoder(name, weights=None, patch_px=tiles.shape[1], seed=0, allow_download=False)
    by_stain = {stain: features(encoder, restain(tiles, factors)) for stain, factors in RESTAINED.items()}
    scores = accuracies(by_stain, labels)
    return {
        "width": encoder.embedding_dim,
        **{
            head: {stain: {"mean": round(float(np.mean(each)), 4), "folds": each} for stain, each in of_head.items()}
            for head, of_head in scores.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--encoders", nargs="+", default=ENCODERS)
    options = parser.parse_args()
    tiles, labels = read_tiles(options.folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = {name: measure(name, tiles, labels) for name in options.encoders}
    report(
        {
            "tiles": len(tiles),
            "classes": sorted(set(labels.tolist())),
            "tiles_sha256": hashlib.sha256(tiles.tobytes()).hexdigest(),
            "stain_factors": RESTAINED,
            "encoders": found,
        }
    )


if __name__ == "__main__":
    main()
