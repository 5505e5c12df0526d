"""Can a supervised region ViT learn how tokens are arranged, and how does this depend on its initial weights?

    python -m benchmarks.planted.supervised --embed-dim 64 --depth 2 --heads 4 --steps 2000

Regions contain two kinds of tokens in equal parts, in a salt-and-pepper mixture or in nests. Every step uses new
regions with labels, so that neither the objective nor the size of the cohort is a limitation: if this fails,
self-distillation is not the cause. Accuracy is the mean over the last 100 batches, each evaluated before it is trained
on; chance is 0.5.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.measure import machine
from benchmarks.planted.cohorts import Planted, TokenModel, draw_kinds
from slpd_toolkit.config.region_vit import RegionViTConfig, WeightInit
from slpd_toolkit.models.region_vit import RegionViT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_AVERAGED = 100


def batches(planted: Planted, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield tokens of new regions indefinitely, (B, grid, grid, D), and the arrangement of each, (B,)."""
    model, rng = TokenModel(planted), planted.rng(3)
    while True:
        drawn = rng.integers(len(model.known.scale), size=size)
        tokens = model.centres[draw_kinds(planted, drawn, model.known, rng)]
        tokens = tokens + np.float32(planted.noise) * rng.standard_normal(tokens.shape, dtype=np.float32)
        yield torch.from_numpy(tokens), torch.from_numpy(model.known.scale[drawn])


def accuracies(planted: Planted, shape: RegionViTConfig, *, steps: int, batch: int, lr: float) -> list[float]:
    """Train, and return the accuracy on the batch of each step before it is trained on."""
    source = torch.Generator().manual_seed(planted.seed)
    network = RegionViT(shape, source, input_dim=planted.dim, grid=planted.grid)
    readout = nn.Linear(shape.embed_dim, len(planted.scales))
    optimiser = torch.optim.AdamW([*network.parameters(), *readout.parameters()], lr, weight_decay=0.05)
    found = []
    for step, (tokens, truth) in zip(range(steps), batches(planted, batch), strict=False):
        optimiser.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / 200)
        logits = readout(network(tokens))
        found.append(float((logits.argmax(1) == truth).float().mean()))
        optimiser.zero_grad()
        F.cross_entropy(logits, truth).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("embed_dim", 64), ("depth", 2), ("heads", 4), ("grid", 8), ("dim", 64)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--mlp-ratio", type=float, default=2.0)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    planted = Planted(
        kinds=2, pairings=1, scales=(0.0, 2.0), grid=args.grid, dim=args.dim, noise=args.noise, seed=args.seed
    )
    found = {}
    for scheme in get_args(WeightInit):
        shape = RegionViTConfig(
            embed_dim=args.embed_dim,
            depth=args.depth,
            heads=args.heads,
            mlp_ratio=args.mlp_ratio,
            weight_init=scheme,
            drop_path=0.0,
        )
        started = time.process_time()
        reached = accuracies(planted, shape, steps=args.steps, batch=args.batch, lr=args.lr)
        marks = range(_AVERAGED, args.steps + 1, max(_AVERAGED, args.steps // 5))
        found[scheme] = {
            "accuracy": {mark: round(float(np.mean(reached[mark - _AVERAGED : mark])), 3) for mark in marks}
            | {args.steps: round(float(np.mean(reached[-_AVERAGED:])), 3)},
            "cpu_s": round(time.process_time() - started),
        }
        print(scheme, found[scheme], flush=True)
    print(json.dumps({"machine": machine(), **vars(args), "found": found}))


if __name__ == "__main__":
    main()
