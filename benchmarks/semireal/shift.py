"""What does a shift between sites do to mean tokens? Site, architecture and class from real tiles, with and without it.

    python -m benchmarks.semireal.shift --out runs/tiles --tiles tiles.npz --into benchmarks/results/semireal.json

For each cohort of `benchmarks.semireal.cohorts`, and mean tokens as they are, relative to the mean of their slide,
whitened as by `slpd pretrain --whitening`, and averaged over stain views if the tiles have any: balanced accuracy of
the site from slide means (patients in one fold, 95 % bootstrap interval over patients), of the architecture of a region
from its nearest neighbors of other patients, and AUC of the class by a logistic probe of slide means in five folds of
patients.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.planted.ablate import MEAN, MEAN_CENTERED, TILES, Unit, of_slides, regions, represent, write_data
from benchmarks.planted.cohorts import CACHE
from benchmarks.semireal.cohorts import TILE_COHORTS
from benchmarks.semireal.tiles import Tiles
from slpd_toolkit.core.files import write_text
from slpd_toolkit.mil.statistics.site_prediction import predict_site
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.stain_views import open_stain_views
from slpd_toolkit.store.token_file import TokenStore
from slpd_toolkit.training.token_whitening import WHITENINGS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.planted.cohorts import Truth

OF_STAINS = "mean of stains"
WHITENED = {f"mean tokens {name}": name for name in WHITENINGS}


def means_of_stains(unit: Unit, views: int) -> NDArray[np.float32]:
    """Return mean tokens averaged over the stains of a cache, (R, D)."""
    store = TokenStore.open(unit.data / CACHE)
    stores = [store, *open_stain_views(store, views)]
    means = [
        np.concatenate([file.tokens.mean(axis=(1, 2), dtype=np.float32) for file in each.files]) for each in stores
    ]
    average: NDArray[np.float32] = np.mean(means, axis=0, dtype=np.float32)
    return average


def whitened_means(unit: Unit, whitening: str) -> NDArray[np.float32]:
    """Return mean tokens after a whitening that is estimated from the cohort, (R, D)."""
    store = TokenStore.open(unit.data / CACHE)
    with closing(CohortTokens(store)) as tokens:
        found = WHITENINGS[whitening](tokens, store, torch.Generator().manual_seed(unit.seed))
    means = np.concatenate([file.tokens.mean(axis=(1, 2), dtype=np.float32) for file in store.files])
    whitened: NDArray[np.float32] = (means - found.mean.numpy()) @ found.matrix.numpy()
    return whitened


def measure(features: NDArray[np.float32], truth: Truth) -> dict[str, Any]:
    """Measure one representation of the regions, (R, D)."""
    slides = np.stack([features[rows].mean(axis=0) for rows in of_slides(truth)])
    site, chance = predict_site(slides, truth.patients, truth.sites.astype(np.str_), 0)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    label = truth.label == "b"
    predicted = cross_val_predict(probe, slides, label, groups=truth.patients, cv=GroupKFold(5), method="predict_proba")
    return {
        "site": round(site.value, 3),
        "site_interval": [round(site.low, 3), round(site.high, 3)],
        "site_chance": chance,
        "regions_knn": round(regions(features, truth)["regions knn"], 3),
        "class_auc": round(float(roc_auc_score(label, predicted[:, 1])), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of cohorts")
    parser.add_argument("--tiles", type=Path, required=True, help="encoded tiles, copied to the folder")
    parser.add_argument("--cohorts", nargs="+", default=list(TILE_COHORTS), choices=TILE_COHORTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rows", nargs="+", choices=(MEAN, MEAN_CENTERED, *WHITENED, OF_STAINS), help="default: all")
    parser.add_argument("--into", type=Path, required=True, help="JSON file of the results; extended if it exists")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(args.tiles, args.out / TILES)
    tiles = Tiles.read(args.out / TILES)
    found = json.loads(args.into.read_text()) if args.into.exists() else {"rows": []}
    found |= {"tiles": f"{tiles.tokens.shape[0]} transforms x {tiles.tokens.shape[1]} tiles x {tiles.tokens.shape[2]}"}
    found["command"] = shlex.join(["python", "-m", "benchmarks.semireal.shift", *sys.argv[1:]])
    for cohort in args.cohorts:
        for seed in args.seeds:
            truth = write_data(Unit(args.out, cohort, seed, MEAN))
            for row in args.rows or (MEAN, MEAN_CENTERED, *WHITENED, *([OF_STAINS] if len(tiles.stained) else [])):
                unit = Unit(args.out, cohort, seed, row)
                if row in WHITENED:
                    features = whitened_means(unit, WHITENED[row])
                else:
                    features = means_of_stains(unit, len(tiles.stained)) if row == OF_STAINS else represent(unit, truth)
                place = {"cohort": cohort, "seed": seed, "row": row}
                kept = [each for each in found["rows"] if {name: each[name] for name in place} != place]
                found["rows"] = [*kept, place | measure(features, truth)]
                print(found["rows"][-1], flush=True)
                write_text(args.into, json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
