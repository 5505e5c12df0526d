"""Neighbors of slides by optimal matching vs. the published dense enumeration, and at sizes infeasible for the latter.

python -m benchmarks.bench_matching
"""

from __future__ import annotations

import argparse
import itertools
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import interleaved, peak_mib, ratio, report, summary
from slpd_toolkit.objectives.matching import nearest_slides

if TYPE_CHECKING:
    from collections.abc import Callable


def enumerate_cosines(prototypes: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """Compute a dense (N, N, K!) array of totals like the published code, by summing the cosines of all pairs."""
    k = prototypes.shape[1]
    permutations = torch.tensor(list(itertools.permutations(range(k))))
    cosines = torch.einsum("nkd,mld->nmkl", prototypes, prototypes)
    totals = torch.stack([cosines[:, :, torch.arange(k), order].sum(-1) for order in permutations], dim=-1)
    return best_of(totals, permutations, r)


def enumerate_products(prototypes: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """Compute the same array with one matrix product of whole slides per permutation."""
    permutations = torch.tensor(list(itertools.permutations(range(prototypes.shape[1]))))
    flat = prototypes.flatten(1)
    totals = torch.stack([flat @ prototypes[:, order].flatten(1).T for order in permutations], dim=-1)
    return best_of(totals, permutations, r)


def best_of(totals: Tensor, permutations: Tensor, r: int) -> tuple[Tensor, Tensor]:
    similarity, best = totals.max(dim=-1)
    similarity.fill_diagonal_(-torch.inf)
    index = similarity.topk(r).indices
    return index, permutations[best.gather(1, index)]


def draw(slides: int, k: int, tissue_types: int | None = None) -> Tensor:
    """Draw random prototypes; with `tissue_types`, around that many directions, like slides of one organ."""
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(slides, k, 256, generator=rng)
    if tissue_types is not None:
        kinds = torch.randn(tissue_types, 256, generator=rng)
        chosen = torch.rand(slides, tissue_types, generator=rng).argsort(1)[:, :k]
        noise = kinds[chosen] + 0.7 * noise
    return F.normalize(noise, dim=-1)


def large(slides: int, k: int, tissue_types: int | None) -> dict[str, Any]:
    prototypes = draw(slides, k, tissue_types)
    start = time.process_time()
    peak = peak_mib(lambda: nearest_slides(prototypes, 1))
    return {
        "slides": slides,
        "prototypes": k,
        "tissue_types": tissue_types,
        "cpu_s": round(time.process_time() - start, 2),
        "peak_mib": round(peak),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--large", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    comparison = {}
    for name, kinds in (("random", None), ("clustered", 8)):
        prototypes = draw(args.slides, 4, kinds)
        ours = nearest_slides(prototypes, 1)
        for enumerate_all in (enumerate_cosines, enumerate_products):
            index, permutation = enumerate_all(prototypes, 1)
            assert torch.equal(ours.index, index)
            assert torch.equal(ours.permutation, permutation)
        functions: dict[str, Callable[[], object]] = {
            "enumerated_cosines": partial(enumerate_cosines, prototypes, 1),
            "enumerated_products": partial(enumerate_products, prototypes, 1),
            "ours": partial(nearest_slides, prototypes, 1),
        }
        seconds = interleaved(functions, args.repeats)
        comparison[name] = {
            variant: {
                **summary(values),
                "ours_times_as_fast": ratio(values, seconds["ours"]),
                "peak_mib": round(peak_mib(functions[variant])),
            }
            for variant, values in seconds.items()
        }
    sizes = [large(args.slides, 8, 12), large(args.large, 4, None), large(args.large, 4, 8)]
    report({"slides": args.slides, "prototypes": 4, "comparison": comparison, "larger": sizes})


if __name__ == "__main__":
    main()
