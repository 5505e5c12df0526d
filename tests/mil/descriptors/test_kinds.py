"""Descriptors against their formulas in plain loops."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.optimize import linprog

from slpd_toolkit.config.mil_eval import DESCRIPTORS
from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.descriptors import cohort_prototypes
from slpd_toolkit.mil.descriptors.cohort_prototypes import fit_prototypes
from slpd_toolkit.mil.descriptors.descriptor import ChosenDescriptor
from slpd_toolkit.mil.descriptors.kinds import histogram, mean_sd, mixture, transport
from slpd_toolkit.mil.descriptors.kinds.prototypes import slide_prototypes

if TYPE_CHECKING:
    from pathlib import Path

RNG = np.random.default_rng(0)
SIZES = (9, 1, 12, 7, 10, 5)
CORNERS = RNG.normal(size=(3, 4)) * 4
BAGS = Bags.pack(
    {f"s{i}": CORNERS[RNG.integers(3, size=size)] + RNG.normal(size=(size, 4)) for i, size in enumerate(SIZES)}
)
TRAIN = np.array([0, 2, 3, 4])
every_kind = pytest.mark.parametrize("name", DESCRIPTORS.names())


def bag(index: int) -> Any:
    return BAGS.features[BAGS.offsets[index] : BAGS.offsets[index + 1]]


@every_kind
def test_any_number_of_regions_becomes_finite_vectors_of_one_width(name: str) -> None:
    found = ChosenDescriptor(name, 3).apply(BAGS, TRAIN)
    kind = ChosenDescriptor(name).load()
    assert found.slides == BAGS.slides
    assert np.isfinite(found.features).all()
    assert found.weights is not None
    np.testing.assert_allclose(np.add.reduceat(found.weights, found.offsets[:-1]), 1, rtol=1e-6)
    most = np.minimum(SIZES, 3) if kind.is_set else np.ones(6, int)
    assert (found.sizes <= most).all()


@pytest.mark.parametrize("name", ["mean", "histogram"])
def test_values_of_a_slide_are_appended_and_nothing_is_fitted_on_them(name: str) -> None:
    chosen, token = ChosenDescriptor(name, 3, mean_token=True), RNG.normal(size=(6, 2)).astype(np.float32)
    bags = dataclasses.replace(BAGS, appended=token).subset(np.array([5, 0, 1, 2, 3, 4]))
    plain, found = ChosenDescriptor(name, 3).apply(BAGS, TRAIN), chosen.apply(bags, TRAIN + 1)
    np.testing.assert_array_equal(found.features[:, :-2], plain.features[[5, 0, 1, 2, 3, 4]])
    np.testing.assert_array_equal(found.features[:, -2:], token[[5, 0, 1, 2, 3, 4]])
    assert chosen.label == f"{name}+mean-token"


@every_kind
def test_nothing_is_learned_from_slides_outside_of_training(name: str) -> None:
    features = BAGS.features.copy()
    features[BAGS.regions_of(np.array([1, 5]))] *= -50
    before = ChosenDescriptor(name, 3).fit(BAGS, TRAIN)
    after = ChosenDescriptor(name, 3).fit(dataclasses.replace(BAGS, features=features), TRAIN)
    assert bool(before.parameters) == ChosenDescriptor(name).load().is_fitted
    for parameter, value in before.parameters.items():
        np.testing.assert_array_equal(value, after.parameters[parameter])
    np.testing.assert_array_equal(before.describe(bag(5)).vectors, after.describe(bag(5)).vectors)


@every_kind
def test_restored_parameters_describe_alike_bit_by_bit(name: str, tmp_path: Path) -> None:
    chosen = ChosenDescriptor(name, 3)
    fitted = chosen.fit(BAGS, TRAIN)
    save_file({key: np.asarray(values) for key, values in fitted.parameters.items()}, tmp_path / "p.safetensors")
    restored = chosen.restore(load_file(tmp_path / "p.safetensors"))
    for index in range(len(BAGS.slides)):
        for one, other in zip(fitted.describe(bag(index)), restored.describe(bag(index)), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "parameter", "value"),
    [
        ("histogram", "width", np.zeros(1)),
        ("histogram", "width", np.ones((1, 1))),
        ("histogram", "sd", np.zeros(4)),
        ("histogram", "centroids", np.ones((3, 5))),
        ("histogram", "centroids", np.ones((0, 4))),
        ("mixture", "sd", -np.ones(4)),
        ("mixture", "means", np.ones((2, 4))),
        ("mixture", "variances", np.zeros((3, 4))),
        ("mixture", "shares", np.zeros(3)),
        ("transport", "shares", np.zeros(3)),
        ("transport", "references", np.ones((2, 4))),
    ],
)
def test_parameters_that_do_not_fit_are_refused(name: str, parameter: str, value: Any) -> None:
    chosen = ChosenDescriptor(name, 3)
    fitted = chosen.fit(BAGS, TRAIN)
    with pytest.raises(ValueError, match=r"do not match|not above 0"):
        chosen.restore({**fitted.parameters, parameter: value})
    with pytest.raises(KeyError):
        chosen.restore({key: values for key, values in fitted.parameters.items() if key != parameter})


@pytest.mark.parametrize("name", sorted(set(DESCRIPTORS.names()) - {"prototypes"}))
def test_neither_order_nor_parts_of_the_regions_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = ChosenDescriptor(name, 3).fit(BAGS, TRAIN)
    whole = fitted.describe(bag(2)).vectors
    for module in (histogram, mean_sd, mixture):
        monkeypatch.setattr(module, "PART", 5)
    np.testing.assert_allclose(fitted.describe(bag(2)[::-1]).vectors, whole, rtol=2e-4, atol=1e-4)


def test_mean_and_spread() -> None:
    found = ChosenDescriptor("mean-sd").apply(BAGS, TRAIN).features
    for index in range(len(SIZES)):
        np.testing.assert_allclose(found[index], [*bag(index).mean(axis=0), *bag(index).std(axis=0)], atol=1e-5)
    np.testing.assert_array_equal(ChosenDescriptor("mean").apply(BAGS, TRAIN).features, BAGS.mean())


def gaussian(x: Any, mean: Any, variance: Any) -> float:
    return float(
        np.prod([np.exp(-((a - m) ** 2) / (2 * v)) / np.sqrt(v) for a, m, v in zip(x, mean, variance, strict=True)])
    )


def test_mixture_statistics_are_those_of_em_in_plain_loops() -> None:
    k = 3
    cohort, sample = fit_prototypes(BAGS, TRAIN, k, 0)
    sample = sample.astype(float)
    members: list[list[Any]] = [[] for _ in range(k)]
    for x in sample:
        members[int(np.argmin([((x - c) ** 2).sum() for c in cohort.centroids]))].append(x)
    shares = [len(each) / len(sample) for each in members]
    means = [c.astype(float) for c in cohort.centroids]
    variances = [np.maximum((np.array(each) ** 2).mean(0) - m**2, 1e-3) for each, m in zip(members, means, strict=True)]
    for _ in range(mixture.ITERATIONS):
        joint = [[p * gaussian(x, m, v) for p, m, v in zip(shares, means, variances, strict=True)] for x in sample]
        r = np.array([[each / sum(row) for each in row] for row in joint])
        for j in range(k):
            count = r[:, j].sum()
            shares[j] = count / len(sample)
            means[j] = sum(r[i, j] * sample[i] for i in range(len(sample))) / count
            variances[j] = np.maximum(
                sum(r[i, j] * sample[i] ** 2 for i in range(len(sample))) / count - means[j] ** 2, 1e-3
            )
    x = cohort.standardized(bag(5)).astype(float)
    joint = [[p * gaussian(each, m, v) for p, m, v in zip(shares, means, variances, strict=True)] for each in x]
    r = np.array([[each / sum(row) for each in row] for row in joint])
    count = r.sum(axis=0)
    mean = [(sum(r[i, j] * x[i] for i in range(5)) + means[j]) / (count[j] + 1) for j in range(k)]
    square = [
        (sum(r[i, j] * x[i] ** 2 for i in range(5)) + variances[j] + means[j] ** 2) / (count[j] + 1) for j in range(k)
    ]
    expected = np.concatenate([count / 5, *mean, *(s - m**2 for s, m in zip(square, mean, strict=True))])
    found = ChosenDescriptor("mixture", k).apply(BAGS, TRAIN).features[5]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-3)


def test_a_component_that_a_slide_lacks_keeps_the_cohort_s_mean() -> None:
    far = {"a": np.tile([100.0, 0], (4, 1)), "b": np.tile([-100.0, 0], (4, 1))}
    loose = {name: values + RNG.normal(size=(4, 2)) for name, values in far.items()}
    fitted = ChosenDescriptor("mixture", 2).fit(Bags.pack(loose), np.arange(2))
    (found,) = fitted.describe(np.asarray(loose["a"], np.float32)).vectors
    absent = int(found[:2].argmin())
    assert found[absent] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(found[2 + 2 * absent : 4 + 2 * absent], fitted.parameters["means"][absent], atol=1e-5)


def test_the_entropic_plan_is_near_the_exact_one_and_has_its_masses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "ITERATIONS", 5000)
    costs = np.square(RNG.normal(size=(6, 1)) - RNG.normal(size=(1, 3)))
    shares = np.array([0.5, 0.3, 0.2])
    plan = transport.sinkhorn(costs, shares, 0.02)
    np.testing.assert_allclose(plan.sum(axis=0), shares, rtol=1e-9)
    masses = np.concatenate([np.kron(np.eye(6), np.ones(3)), np.kron(np.ones(6), np.eye(3))])
    exact = linprog(costs.ravel(), A_eq=masses, b_eq=[*[1 / 6] * 6, *shares])
    assert exact.fun - 1e-3 <= (plan * costs).sum() <= exact.fun + 0.02
    np.testing.assert_allclose(plan.sum(axis=1), 1 / 6, rtol=1e-2)


def test_the_transport_embedding_is_its_formula() -> None:
    fitted = ChosenDescriptor("transport", 3).fit(BAGS, TRAIN)
    z, b = fitted.parameters["references"].astype(float), fitted.parameters["shares"].astype(float)
    cohort, _ = fit_prototypes(BAGS, TRAIN, 3, 0)
    x = cohort.standardized(bag(0)).astype(float)
    costs = np.array([[((one - other) ** 2).sum() for other in z] for one in x])
    plan = transport.sinkhorn(costs, b, 0.1 * cohort.width)
    expected = [np.sqrt(b[k]) * (sum(plan[i, k] * x[i] for i in range(9)) / b[k] - z[k]) for k in range(3)]
    np.testing.assert_allclose(fitted.describe(bag(0)).vectors[0], np.concatenate(expected), atol=1e-3)


def test_slide_prototypes_are_unit_centroids_with_the_shares_of_their_regions() -> None:
    kinds = np.array([0] * 6 + [1] * 3)
    regions = (np.eye(4)[kinds] * 7 + 0.01 * RNG.normal(size=(9, 4))).astype(np.float32)
    found = slide_prototypes(regions, 2)
    unit = regions / np.linalg.norm(regions, axis=1, keepdims=True)
    order = np.argsort(-found.weights)
    np.testing.assert_allclose(found.weights[order], [6 / 9, 3 / 9])
    for place, kind in zip(order, (0, 1), strict=True):
        centroid = unit[kinds == kind].mean(axis=0)
        np.testing.assert_allclose(found.vectors[place], centroid / np.linalg.norm(centroid), atol=1e-6)
    few = slide_prototypes(regions[:3], 4)
    np.testing.assert_allclose(few.vectors, unit[:3], atol=1e-6)
    np.testing.assert_allclose(few.weights, 1 / 3)
    alike = slide_prototypes(np.ones((8, 4), np.float32), 3)
    np.testing.assert_allclose(alike.weights @ alike.vectors, [0.5] * 4, atol=1e-6)


def test_many_regions_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort_prototypes, "MOST_REGIONS", 20)
    fitted, sample = fit_prototypes(BAGS, TRAIN, 3, 0)
    assert len(sample) == 20
    np.testing.assert_array_equal(fitted.scaler.mean, BAGS.scaler(TRAIN).mean)
