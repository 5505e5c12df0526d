"""What does a whitening keep? Variance between kinds of tokens, relative to that of the nuisance, before any training.

    python -m benchmarks.planted.separation --seeds 0 1 2 --out separation.md

For each planted cohort: the variance between the centers of kinds, divided by the variance of a nuisance of strength 1
in its directions, after the map of tokens: none, `between-slides`, `within-kinds`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.planted import ablate, robust
from benchmarks.planted.cohorts import Planted, TokenModel, plan
from slpd_toolkit.core.files import write_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAPS = {"none": None, "between-slides": "WCCN", "within-kinds": "kinds"}
COHORTS = ("slide shift", "small drift", "drift", "small shift", "waves", "composition")


def separation(model: TokenModel, matrix: NDArray[np.float64]) -> float:
    """Return the variance between kinds divided by that of the nuisance, after the (D, D) map."""
    kinds = np.cov(model.centres.astype(np.float64).T, bias=True)
    nuisance = model.directions.astype(np.float64).T @ model.directions.astype(np.float64)
    return float(np.trace(matrix @ kinds @ matrix) / np.trace(matrix @ nuisance @ matrix))


def map_of(slides: robust.Slides, name: str | None) -> NDArray[np.float64]:
    """Return the (D, D) map that a normalization multiplies tokens by, up to a factor."""
    if name is None:
        return np.eye(slides[0].shape[-1])
    if name == "WCCN":
        return robust.map_against(robust.between(slides), robust.SMOOTHING)
    return robust.kinds_map(slides).matrix.double().numpy()


def measure(cohort: str, seed: int) -> list[float]:
    """Measure all maps on one cohort."""
    planted = Planted(**{**ablate.SIZE, **ablate.COHORTS[cohort]}, seed=seed)
    model = TokenModel(planted)
    slides = robust.draw(planted, plan(planted), model)
    return [separation(model, map_of(slides, name)) for name in MAPS.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohorts", nargs="+", default=list(COHORTS), choices=COHORTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True, help="Markdown file")
    args = parser.parse_args()
    text = [f"| cohort | seeds | {' | '.join(MAPS)} |", "|---" * (2 + len(MAPS)) + "|"]
    for cohort in args.cohorts:
        values = np.array([measure(cohort, seed) for seed in args.seeds])
        cells = (f"{each.mean():.1f} ({each.min():.1f} to {each.max():.1f})" for each in values.T)
        text.append(f"| {cohort} | {len(values)} | {' | '.join(cells)} |")
        print(text[-1], flush=True)
    write_text(args.out, "\n".join(text) + "\n")


if __name__ == "__main__":
    main()
