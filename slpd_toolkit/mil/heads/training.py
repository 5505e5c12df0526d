"""Training one head on one split, with early stopping on the validation part and without access to the test part."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from slpd_toolkit.core.compute import explain_out_of_memory
from slpd_toolkit.core.text import count
from slpd_toolkit.mil.heads.optimiser import AdamW

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from torch import Tensor

    from slpd_toolkit.mil.arrays import IntArray
    from slpd_toolkit.mil.bags import Bags, Scaler
    from slpd_toolkit.mil.heads.aggregator import Aggregator
    from slpd_toolkit.mil.tasks.likelihoods import Objective

_WINDOW_BATCHES = 8
_PREDICT_BATCH = 64
_PADDED_REGIONS = 1 << 14


@dataclass(frozen=True)
class HeadTraining:
    """Training settings of heads. Counted in steps, so that the cost does not grow with the cohort."""

    steps: int = 1000
    """Maximum number of optimizer steps."""
    batch_size: int = 32
    """Batch size, in slides."""
    check_every: int = 20
    """Number of steps between checks of the validation loss."""
    patience: int = 8
    """Number of checks without improvement before training stops."""
    least_gain: float = 1e-3
    """Minimum decrease of the validation loss that counts as improvement."""
    learning_rate: float = 1e-3
    """Constant learning rate of AdamW."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW."""


@dataclass(frozen=True)
class Check:
    """One check of the validation loss."""

    step: int
    train_loss: float
    """Mean over the steps since the last check."""
    val_loss: float


def train_head(
    head: Aggregator,
    bags: Bags,
    objective: Objective,
    *,
    train: IntArray,
    val: IntArray,
    scaler: Scaler,
    config: HeadTraining,
    rng: np.random.Generator,
) -> tuple[list[Check], int]:
    """Train a head in place, and restore the weights with the lowest validation loss.

    Dropout uses PyTorch's global generator, which the caller must seed.

    Args:
        head: Newly initialized head.
        bags: All slides; only those of train and val are used.
        objective: Result of `Task.objective` for the same training rows.
        train: Training rows.
        val: Validation rows, for early stopping.
        scaler: Result of `Bags.scaler` for the same training rows.
        config: Steps, batch size, patience and optimizer.
        rng: Random generator of the order of slides.

    Returns:
        The checks of the validation loss, in order, and the step whose weights were kept.
    """
    optimiser = AdamW(head.parameters(), learning_rate=config.learning_rate, weight_decay=config.weight_decay)
    best_loss, best_weights, best_step = float("inf"), copy.deepcopy(head.state_dict()), 0
    checks: list[Check] = []
    losses: list[float] = []
    for step, rows in zip(range(1, config.steps + 1), batches(bags.sizes, train, config.batch_size, rng), strict=False):
        head.train()
        optimiser.zero_grad()
        mean = 0.0
        for part in parts_of_like_size(bags.sizes, rows):
            with explain_large_bag(bags, part):
                of_slides = head.training_loss(*to_tensors(bags, part, scaler), objective, torch.from_numpy(part))
                loss = of_slides.sum() / len(rows) if len(part) < len(rows) else of_slides.mean()
                loss.backward()  # type: ignore[no-untyped-call]
            mean += loss.item()
        optimiser.step()
        losses.append(mean)
        if step % config.check_every and step != config.steps:
            continue
        logits, _ = predict(head, bags, val, scaler)
        checks.append(Check(step, float(np.mean(losses)), objective.loss(logits, torch.from_numpy(val)).mean().item()))
        losses.clear()
        if checks[-1].val_loss < best_loss - config.least_gain:
            best_loss, best_weights, best_step = checks[-1].val_loss, copy.deepcopy(head.state_dict()), step
        elif step - best_step >= config.patience * config.check_every:
            break
    head.load_state_dict(best_weights)
    return checks, best_step


@torch.no_grad()
def predict(
    head: Aggregator, bags: Bags, rows: IntArray, scaler: Scaler, *, batch_size: int = _PREDICT_BATCH
) -> tuple[Tensor, list[Tensor]]:
    """Apply a head in evaluation mode.

    Args:
        head: The head.
        bags: All slides.
        rows: Slides to predict.
        scaler: Standardization.
        batch_size: Slides per batch. With 1, the result of a slide does not depend on the others to the last bit;
            with more, sums are computed in an order that depends on the largest slide of the batch.

    Returns:
        Logits (n, outputs) and n attention vectors (regions of the slide,), both in the order of `rows`.
    """
    head.eval()
    by_size = np.argsort(bags.sizes[rows], kind="stable")
    logits: list[Tensor] = []
    attention: list[Tensor] = []
    for start in range(0, len(rows), batch_size):
        for part in parts_of_like_size(bags.sizes, rows[by_size[start : start + batch_size]]):
            with explain_large_bag(bags, part):
                batch, mask = to_tensors(bags, part, scaler)
                output = head(batch, mask)
            logits.append(output.logits)
            attention += [weights[inside] for weights, inside in zip(output.attention, mask, strict=True)]
    back = np.argsort(by_size)
    return torch.cat(logits)[back], [attention[index] for index in back]


def batches(sizes: IntArray, rows: IntArray, batch_size: int, rng: np.random.Generator) -> Iterator[IntArray]:
    """Yield random batches indefinitely, using every row once per pass.

    Slides are sorted by size within windows of eight batches, to reduce padding.

    Args:
        sizes: (S,) number of regions of each slide.
        rows: Rows to draw from.
        batch_size: Rows per batch; the last batch of a pass may be smaller.
        rng: Random generator of the order.
    """
    while True:
        shuffled = rng.permutation(rows)
        passed: list[IntArray] = []
        for window in np.split(shuffled, range(batch_size * _WINDOW_BATCHES, len(rows), batch_size * _WINDOW_BATCHES)):
            alike = window[np.argsort(sizes[window], kind="stable")]
            passed += np.split(alike, range(batch_size, len(alike), batch_size))
        for index in rng.permutation(len(passed)):
            yield passed[index]


def parts_of_like_size(sizes: IntArray, rows: IntArray) -> list[IntArray]:
    """Divide a batch so that no part has more than 16 384 regions with padding; a single larger bag is a part.

    Args:
        sizes: (S,) number of regions of each slide.
        rows: The batch. A batch that is not divided keeps its order; in others, parts are sorted by size.
    """
    if len(rows) * sizes[rows].max() <= _PADDED_REGIONS:
        return [rows]
    parts: list[list[int]] = [[]]
    for row in rows[np.argsort(sizes[rows], kind="stable")].tolist():
        if parts[-1] and (len(parts[-1]) + 1) * sizes[row] > _PADDED_REGIONS:
            parts.append([])
        parts[-1].append(row)
    return [np.array(part, dtype=rows.dtype) for part in parts]


def explain_large_bag(bags: Bags, rows: IntArray) -> AbstractContextManager[None]:
    """Return a context that names the largest slide of a batch if memory runs out; see `explain_out_of_memory`."""
    largest = rows[bags.sizes[rows].argmax()]
    return explain_out_of_memory(
        "Use --head-batch 1, an aggregator without attention between regions (abmil, mean-mlp), larger regions, or "
        "leave the slide out.",
        at=f"slide {bags.slides[largest]} with {count(bags.sizes[largest], 'region')}",
    )


def to_tensors(bags: Bags, rows: IntArray, scaler: Scaler) -> tuple[Tensor, Tensor]:
    """Return a standardized, padded batch, (B, N, D), and its mask, (B, N)."""
    batch, mask = bags.padded(rows, scaler)
    return torch.from_numpy(batch), torch.from_numpy(mask)
