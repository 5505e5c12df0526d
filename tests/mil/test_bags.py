from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.bags import Bags


def random_bags(sizes: list[int], width: int = 3) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    rng = np.random.default_rng(0)
    return {f"s{i}": rng.standard_normal((size, width), dtype=np.float32) for i, size in enumerate(sizes)}


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=8), data=st.data())
def test_a_padded_batch_holds_each_bag_and_zeros(sizes: list[int], data: st.DataObject) -> None:
    loose = random_bags(sizes)
    bags = Bags.pack(loose)
    index = np.array(data.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=5)))
    scaler = bags.scaler(np.array([0]))
    batch, mask = bags.padded(index, scaler)
    assert batch.shape == (len(index), max(sizes[i] for i in index), 3)
    assert batch.dtype == np.float32
    for row, i in enumerate(index):
        np.testing.assert_array_equal(batch[row][mask[row]], (loose[f"s{i}"] - scaler.mean) / scaler.sd)
        assert not batch[row][~mask[row]].any()
        assert mask[row, : sizes[i]].all()


def test_means_and_region_rows_are_those_of_the_loose_bags() -> None:
    loose = random_bags([3, 1, 5])
    bags = Bags.pack(loose)
    np.testing.assert_allclose(bags.mean(), [bag.mean(axis=0) for bag in loose.values()], rtol=1e-6)
    np.testing.assert_array_equal(
        bags.features[bags.regions_of(np.array([2, 0]))], np.concatenate([loose["s2"], loose["s0"]])
    )
    assert bags.sizes.tolist() == [3, 1, 5]
    assert bags.width == 3


def test_a_scaler_knows_only_the_slides_it_is_given_and_leaves_constant_features_alone() -> None:
    loose = random_bags([4, 3, 5])
    for bag in loose.values():
        bag[:, 1] = 7
    scaler = Bags.pack(loose).scaler(np.array([0, 2]))
    known = np.concatenate([loose["s0"], loose["s2"]])
    np.testing.assert_allclose(scaler.mean, known.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(scaler.sd, [known[:, 0].std(), 1, known[:, 2].std()], rtol=1e-6)


def test_means_are_summed_in_double_precision() -> None:
    bag = np.full((100_000, 2), 0.1, dtype=np.float32)
    assert (Bags.pack({"s": bag}).mean() == np.float32(0.1)).all()


def test_slides_are_found_by_id_and_missing_ones_named() -> None:
    bags = Bags.pack(random_bags([1, 2, 1]))
    assert bags.index_of(["s2", "s0"]).tolist() == [2, 0]
    with pytest.raises(UsageError, match=r"1 slide has no embedding: s9"):
        bags.index_of(["s1", "s9"])


def test_bags_that_cannot_be_evaluated_are_refused_by_name() -> None:
    good = np.zeros((2, 3), dtype=np.float32)
    with pytest.raises(UsageError, match="no slide"):
        Bags.pack({})
    with pytest.raises(UsageError, match=r"1 slide does not have \(regions, 3\) embeddings: b \(2, 4\)"):
        Bags.pack({"a": good, "b": np.zeros((2, 4), dtype=np.float32)})
    with pytest.raises(UsageError, match=r"b \(3,\)"):
        Bags.pack({"a": good, "b": np.zeros(3, dtype=np.float32)})
    with pytest.raises(UsageError, match="1 slide has no regions: b"):
        Bags.pack({"a": good, "b": good[:0]})
    with pytest.raises(UsageError, match="1 slide contain NaN or infinity: b"):
        Bags.pack({"a": good, "b": np.full((1, 3), np.nan, dtype=np.float32)})
