from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slpd_toolkit.core.compute import resolve_precision
from slpd_toolkit.encoders.registry import make_encoder
from slpd_toolkit.encoders.stream import encode_stream, fill_batches
from tests.cohorts import mean_colour_encoder

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from slpd_toolkit.core.precision import Precision

CPU = torch.device("cpu")
SIDE = 4


def items(counts: list[int]) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Items whose patches are all of one grey, counted through all items."""
    start = 0
    for key, count in enumerate(counts):
        values = np.arange(start, start + count) % 251
        yield key, np.broadcast_to(values[:, None, None, None], (count, SIDE, SIDE, 3)).astype(np.uint8)
        start += count


@pytest.mark.slow
@given(counts=st.lists(st.integers(0, 23), max_size=12), batch_size=st.integers(1, 9))
@settings(deadline=None)
def test_every_patch_comes_back_once_in_order(counts: list[int], batch_size: int) -> None:
    encoder = mean_colour_encoder("", patch_px=SIDE, seed=0)
    found: list[tuple[int, int, int]] = []
    for key, first, tokens in encode_stream(
        encoder, items(counts), batch_size=batch_size, patch_px=SIDE, device=CPU, precision="fp32"
    ):
        assert tokens.dtype == np.float32
        assert 1 <= len(tokens) <= batch_size
        found += [(key, first + offset, round(float(token[0]))) for offset, token in enumerate(tokens)]
    total = iter(range(sum(counts)))
    assert found == [(key, index, next(total) % 251) for key, count in enumerate(counts) for index in range(count)]


@pytest.mark.slow
@given(counts=st.lists(st.integers(0, 23), max_size=12), batch_size=st.integers(1, 9))
@settings(deadline=None)
def test_batches_are_full_and_as_few_as_can_be(counts: list[int], batch_size: int) -> None:
    batches = list(fill_batches(items(counts), batch_size, SIDE, pin_memory=False))
    assert len(batches) == -(-sum(counts) // batch_size)
    for number, (batch, parts) in enumerate(batches):
        assert batch.shape == (batch_size, SIDE, SIDE, 3)
        assert batch.dtype == torch.uint8
        filled = sum(part.count for part in parts)
        assert filled == batch_size or number == len(batches) - 1
        assert filled > 0
        assert (batch[filled:] == 0).all()
    assert len({batch.data_ptr() for batch, _ in batches}) == len(batches)


def test_patches_are_asked_for_only_as_batches_need_them() -> None:
    asked = []

    def watched() -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        for key, patches in items([3] * 10):
            asked.append(key)
            yield key, patches

    encoder = mean_colour_encoder("", patch_px=SIDE, seed=0)
    stream = encode_stream(encoder, watched(), batch_size=4, patch_px=SIDE, device=CPU, precision="fp32")
    next(stream)
    assert asked == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_patch_s_token_depends_neither_on_its_batch_mates_nor_on_its_place(precision: Precision) -> None:
    """Bit for bit, with a real ViT: an interrupted run meets its patches in other batches than a whole one."""
    if precision == "bf16" and resolve_precision("auto", CPU) != "bf16":
        pytest.skip("this CPU does not multiply bf16")
    encoder = make_encoder("random", weights=None, patch_px=64, seed=0, allow_download=False)
    patches = np.random.default_rng(0).integers(0, 256, (21, 64, 64, 3), np.uint8)

    def tokens(order: npt.NDArray[np.intp], split: int) -> npt.NDArray[np.float32]:
        parts = [(number, patches[part]) for number, part in enumerate(np.array_split(order, split))]
        stream = encode_stream(encoder, parts, batch_size=8, patch_px=64, device=CPU, precision=precision)
        found = np.empty((len(patches), 192), np.float32)
        found[order] = np.concatenate([values for _, _, values in stream])
        return found

    whole = tokens(np.arange(21), 1)
    assert len(np.unique(whole, axis=0)) == 21
    for seed in range(3):
        assert np.array_equal(tokens(np.random.default_rng(seed).permutation(21), 4), whole)
    alone = next(
        values
        for _, _, values in encode_stream(
            encoder, [(0, patches[5:6])], batch_size=8, patch_px=64, device=CPU, precision=precision
        )
    )
    assert np.array_equal(alone[0], whole[5])
