"""The ablation driver: measurements on a known truth, stored results, and comparison of rows."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks.planted import ablate
from benchmarks.planted.ablate import Unit, chance, measure, purity, regions, shuffled_prototypes, slide_clusters
from benchmarks.planted.cohorts import Planted, plan
from benchmarks.planted.report import write_report
from slpd_toolkit.objectives.slide_prototypes import PrototypeBank
from tests.training.runs import TINY

if TYPE_CHECKING:
    from pathlib import Path

TRUTH = plan(Planted(slides=60, regions=20, tendency=0.3))
ONE_HOT = np.eye(8, dtype=np.float32)[TRUTH.architecture]


def test_the_truth_scores_one_and_noise_scores_chance() -> None:
    found = regions(ONE_HOT, TRUTH)
    assert set(found.values()) == {1.0}
    noise = regions(np.random.default_rng(0).standard_normal((len(ONE_HOT), 5)).astype(np.float32), TRUTH)
    for name, value in noise.items():
        classes = {"kinds": 4, "arrangement": 2}.get(name.split()[-1], 8)
        assert value == pytest.approx(1 / classes, abs=0.1), name


def test_what_tells_kinds_but_not_arrangement_scores_so() -> None:
    kinds = np.zeros((len(ONE_HOT), 4), np.float32)
    np.put_along_axis(kinds, TRUTH.kinds[TRUTH.architecture], 1.0, axis=1)
    found = regions(kinds, TRUTH)
    assert found["regions probe kinds"] == found["regions knn kinds"] == 1.0
    assert found["regions probe arrangement"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.slow
def test_purity_is_one_for_the_truth_and_small_by_chance() -> None:
    clusters = slide_clusters(ONE_HOT, TRUTH, 6, 0)  # no slide has more architectures
    eligible = clusters >= 0
    sizes = np.bincount(TRUTH.slide_of_region)
    np.testing.assert_array_equal(eligible, (sizes >= 12)[TRUTH.slide_of_region])
    assert purity(clusters, TRUTH) > 0.98  # k-means does not always find them
    assert purity(np.where(eligible, TRUTH.architecture, -1), TRUTH) == pytest.approx(1.0)
    assert chance(clusters, TRUTH, 0) < 0.5


@pytest.mark.slow
def test_measures_every_target_by_every_aggregator() -> None:
    truth = plan(Planted(slides=60, regions=12))
    found = measure(np.eye(8, dtype=np.float32)[truth.architecture], truth, 0, clusters=4)
    for target in ("class", "grade", "survival"):
        for aggregator in (*ablate.MEASURED, *(f"{name} 25%" for name in ablate.FEW_LABELS)):
            assert len(found[f"{target} {aggregator}"]) == ablate.FOLDS
    assert np.mean(found["class probe"]) > 0.8


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablate, "SIZE", {"slides": 30, "regions": 10.0, "grid": 6, "dim": 8})
    monkeypatch.setattr(ablate, "SETTINGS", {**TINY, "epochs": 2, "mlp_ratio": 2.0, "drop_path": 0.0})
    monkeypatch.setattr(ablate, "MEASURED", ("knn",))
    monkeypatch.setattr(ablate, "FEW_LABELS", ())
    monkeypatch.setattr(ablate, "ATTENTION", "knn")


@pytest.mark.long
@pytest.mark.usefixtures("small", "no_curves")
@pytest.mark.slow
def test_units_are_completed_once_and_reported(tmp_path: Path) -> None:
    rows = ["truth", "mean tokens", "untrained", "DINO", "SLPD matched", "SLPD shuffled"]
    ablate.run(tmp_path / "out", ["drift"], [9, 10], rows, jobs=1)
    results = sorted((tmp_path / "out").glob("drift/seed*/*.json"))
    assert len(results) == 12
    before = {path: path.stat().st_mtime_ns for path in results}
    results[0].unlink()
    ablate.run(tmp_path / "out", ["drift"], [9, 10], rows, jobs=1)
    changed = [path for path in results if path.stat().st_mtime_ns != before[path]]
    assert changed == [results[0]]
    matched, shuffled = (_unit(tmp_path / "out", row)["metrics"]["last intra"] for row in rows[-2:])
    assert matched != shuffled
    write_report(tmp_path / "out", tmp_path / "report", "command", {}, rows)
    with (tmp_path / "report" / "planted.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {line["row"] for line in table} == set(rows)
    assert {line["seeds"] for line in table} == {"1"}
    assert json.loads((tmp_path / "report" / "planted.json").read_text())["units"] == 12
    assert "<svg" in (tmp_path / "report" / "planted.svg").read_text()


def _unit(out: Path, row: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Unit(out, "drift", 10, row).result.read_text())
    return found


def test_rows_are_compared_by_seed_and_corrected_together(tmp_path: Path) -> None:
    values = {"DINO": [0.5, 0.6, 0.7, 0.6, 0.8], "SLPD matched": [0.55, 0.68, 0.72, 0.59, 0.81]}
    for row, of_seed in values.items():
        for seed, value in enumerate(of_seed, start=10):
            unit = Unit(tmp_path, "drift", seed, row)
            unit.data.mkdir(parents=True, exist_ok=True)
            metrics = {"regions knn": value, "class prototype-histogram 25%": [value, value + 0.1, float("nan")]}
            found = {"cohort": "drift", "row": row, "seed": seed, "metrics": metrics}
            unit.result.write_text(json.dumps({**found, "training_cpu_s": 1.0, "measuring_cpu_s": 1.0}))
    write_report(tmp_path, tmp_path / "report", "", {}, ["DINO", "SLPD matched"])
    with (tmp_path / "report" / "planted.csv").open() as file:
        table = list(csv.DictReader(file))
    (line,) = [line for line in table if line["against"] == "DINO" and line["metric"] == "regions knn"]
    p_value = stats.ttest_rel(values["SLPD matched"], values["DINO"]).pvalue
    assert float(line["difference"]) == pytest.approx(0.03)
    assert line["wins"] == "4 of 5"
    assert float(line["p"]) == pytest.approx(p_value, rel=0.05)
    assert float(line["p_holm"]) == pytest.approx(2 * p_value, rel=0.05)  # two metrics were tested
    (mean,) = [line for line in table if line["row"] == "DINO" and line["metric"] == "class prototype-histogram 25%"]
    assert float(mean["mean"]) == pytest.approx(0.69)


@pytest.mark.slow
def test_shuffled_prototypes_are_those_of_the_batch_in_another_order() -> None:
    count = torch.arange(20)
    bank = PrototypeBank(
        prototypes=torch.arange(40.0).view(20, 2, 1),
        slides=count,
        row=count,
        cluster=count % 2,
        neighbours=count[:, None],
        similarity=torch.ones(20, 1),
        counterpart=torch.zeros(20, 2, 1, dtype=torch.int64),
    )
    plain = bank.targets(count)
    with shuffled_prototypes(0):
        shuffled = bank.targets(count)
    assert not torch.equal(shuffled.own, plain.own)
    torch.testing.assert_close(shuffled.own.sort(dim=0).values, plain.own.sort(dim=0).values)
    torch.testing.assert_close(bank.targets(count).own, plain.own)


def test_seeds_that_settings_were_chosen_on_are_reported_apart_and_not_tested(tmp_path: Path) -> None:
    for seed in (*range(5), *range(10, 15)):
        for row, value in (("DINO", 0.5), ("SLPD matched", 0.6 + 0.01 * seed)):
            unit = Unit(tmp_path, "drift", seed, row)
            unit.data.mkdir(parents=True, exist_ok=True)
            found = {"cohort": "drift", "row": row, "seed": seed, "metrics": {"regions knn": value}}
            unit.result.write_text(json.dumps({**found, "training_cpu_s": 1.0, "measuring_cpu_s": 1.0}))
    write_report(tmp_path, tmp_path / "report", "", {}, ["DINO", "SLPD matched"])
    for name, difference in (("planted", 0.22), ("tuning", 0.12)):
        with (tmp_path / "report" / f"{name}.csv").open() as file:
            (line,) = [line for line in csv.DictReader(file) if line["against"]]
        assert float(line["difference"]) == pytest.approx(difference)
        assert bool(line["p"]) == bool(line["p_holm"]) == (name == "planted")
