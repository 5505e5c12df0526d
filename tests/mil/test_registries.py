"""A kind of target, a way to split and an aggregator are one file each, listed by --help and in errors."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.report import evaluation_folder
from tests.cohorts import read_csv
from tests.conftest import REPOSITORY
from tests.evaluations import Planted, plant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Drop = Callable[[str, str, str], None]

NUMBER = '''"""A number, judged by how well its order is predicted."""

import numpy as np
import torch
from dataclasses import dataclass
from typing import ClassVar

from slpd_toolkit.mil.tasks.cases import Choice
from slpd_toolkit.mil.tasks.concordance import weighted_concordance
from slpd_toolkit.mil.tasks.likelihoods import Objective
from slpd_toolkit.mil.tasks.readouts import LinearModel, Readout
from slpd_toolkit.mil.tasks.targets import read_numbers
from slpd_toolkit.mil.tasks.task import Metric, Task


class Squares(Objective):
    outputs, labels = 1, None
    vote_rule, readout = "mean", Readout("identity")

    def __init__(self, targets):
        self.targets = targets

    def loss(self, logits, rows):
        return (logits[:, 0] - self.targets[rows]) ** 2

    def votes(self, rows):
        return self.targets[rows][:, None]

    def fit_linear(self, known, rows, inverse_penalty):
        from sklearn.linear_model import Ridge

        model = Ridge(1 / inverse_penalty).fit(known, self.targets[rows].numpy())
        return LinearModel(model.coef_[:, None], np.array([model.intercept_]))


@dataclass(frozen=True, eq=False)
class Number(Task):
    settings: ClassVar = frozenset()
    headline: ClassVar = "order"
    known_metrics: ClassVar = {"order": Metric("order", chance=0.5)}
    hardest: ClassVar = "None."
    values: np.ndarray

    @classmethod
    def columns(cls, settings):
        return [*settings.target]

    @classmethod
    def read(cls, slides, cells, settings):
        return cls(read_numbers(cells[0]))

    @property
    def strata(self):
        return np.full(len(self.values), "all")

    def objective(self, train):
        return Squares(torch.tensor(self.values, dtype=torch.float32))

    def weighted_metrics(self, rows, outputs, weights):
        events = np.ones(len(rows), bool)
        return {"order": weighted_concordance(self.values[rows], events, -outputs[:, 0], weights)}

    def contrasts(self):
        return (self.values - self.values.mean())[:, None]

    prediction_columns = ["value", "predicted"]

    def prediction_cells(self, rows, outputs):
        return ([float(self.values[row]), float(output)] for row, output in zip(rows, outputs[:, 0]))

    def document(self):
        return {"kind": "number"}

    def facts(self):
        return {"task": "a number"}

    def definitions(self):
        return {"Order": "Concordance."}

    def choose_cases(self, results, slides, patients, limit):
        return [Choice([], []) for _ in results]


TASK = Number
'''
HALVES = '''"""The first and the last slides, and those between."""

from slpd_toolkit.mil.cohort.split_kind import SplitKind
from slpd_toolkit.mil.cohort.splits import Split


class Thirds(SplitKind):
    settings = frozenset()

    @classmethod
    def divide(cls, inputs, settings):
        slides = inputs.cohort.slides.tolist()
        third = len(slides) // 3
        parts = (tuple(slides[start : start + third]) for start in range(0, 3 * third, third))
        return [Split(0, *parts)], ["Thirds."]


SPLIT_KIND = Thirds
'''
LAST = '''"""The last region, through a linear layer."""

from torch import nn

from slpd_toolkit.mil.heads.aggregator import Aggregator, BagOutput
from slpd_toolkit.mil.heads.bag_network import BagNetwork


class LastRegion(Aggregator):
    def __init__(self, width, outputs):
        super().__init__()
        self.layer = nn.Linear(width, outputs)

    def forward(self, bags, mask):
        last = nn.functional.one_hot(mask.sum(dim=1) - 1, mask.shape[1]).float()
        return BagOutput(self.layer((bags * last.unsqueeze(2)).sum(dim=1)), last)


HEAD = BagNetwork(LastRegion)
'''
KINDS = {
    "--task": ("slpd_toolkit.mil.tasks.kinds", "number_of_test", NUMBER, "A number, judged by how"),
    "--split-kind": ("slpd_toolkit.mil.cohort.split_kinds", "thirds_of_test", HALVES, "The first and the last"),
    "--aggregator": ("slpd_toolkit.mil.heads.aggregators", "last_of_test", LAST, "The last region, through"),
}
kinds = pytest.mark.parametrize("flag", KINDS)


@pytest.fixture
def drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drop]:
    """Add a file to a package by extending its path."""
    dropped = []

    def put(package: str, name: str, text: str) -> None:
        folder = tmp_path / "dropped"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(text)
        found = importlib.import_module(package)
        monkeypatch.setattr(found, "__path__", [*found.__path__, str(folder)])
        dropped.append(f"{package}.{name}")

    yield put
    for name in dropped:
        sys.modules.pop(name, None)


@pytest.fixture
def numbered(tmp_path: Path) -> Planted:
    numbers = list(range(36))
    return plant(
        tmp_path, {"label": [number % 2 for number in numbers], "height": numbers}, [2.0 * each for each in numbers]
    )


@pytest.mark.slow
@kinds
def test_an_added_file_is_listed_in_the_help_without_torch(flag: str, tmp_path: Path) -> None:
    package, name, text, summary = KINDS[flag]
    (tmp_path / f"{name}.py").write_text(text)
    program = (
        f"import sys, {package} as package; package.__path__.append({str(tmp_path)!r})\n"
        "from slpd_toolkit.cli.app import app\n"
        "try: app(['mil-eval', '--help'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    shown = "".join(done.stdout.split())  # lines break within names
    assert f"`{name.replace('_', '-')}`:{''.join(summary.split())}" in shown
    assert shown.endswith("False")


@kinds
def test_an_added_file_is_listed_in_the_error(flag: str, drop: Drop, numbered: Planted) -> None:
    package, name, text, _ = KINDS[flag]
    drop(package, name, text)
    setting: dict[str, Any] = {flag.removeprefix("--").replace("-", "_"): ("x",) if flag == "--aggregator" else "x"}
    with pytest.raises(UsageError, match=f"{flag}: got x, allowed: .*{name.replace('_', '-')}"):
        numbered.config(numbered.cache, **setting)


@pytest.mark.slow
def test_an_added_kind_of_target_is_evaluated(drop: Drop, numbered: Planted, tmp_path: Path) -> None:
    drop(*KINDS["--task"][:3])
    out = tmp_path / "out"
    found = numbered.evaluate(out, task="number-of-test", target=("height",), aggregator=("knn", "probe", "mean-mlp"))
    assert found["task"] == {"kind": "number"}
    assert [each["metrics"]["order"]["mean"] > 0.75 for each in found["results"]] == [True] * 3
    rows = read_csv(out / "predictions.csv")
    assert {"value", "predicted"} <= rows[0].keys()
    page = (out / "report.html").read_text()
    assert "a number" in page
    assert "Concordance." in page


def test_an_added_way_to_split_is_used(
    drop: Drop, numbered: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_folder, "write_report", lambda path, *_: path.write_text("<html/>"))
    drop(*KINDS["--split-kind"][:3])
    out = tmp_path / "out"
    found = numbered.evaluate(out, split_kind="thirds-of-test", folds=None, aggregator=("knn",))
    assert "Thirds." in found["notes"]
    parts = [row["part"] for row in read_csv(out / "folds.csv")]
    assert [parts.count(part) for part in ("train", "val", "test")] == [12, 12, 12]


@pytest.mark.slow
def test_an_added_aggregator_is_trained(
    drop: Drop, numbered: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_folder, "write_report", lambda path, *_: path.write_text("<html/>"))
    drop(*KINDS["--aggregator"][:3])
    found = numbered.evaluate(tmp_path / "out", aggregator=("last-of-test",))
    assert [each["aggregator"] for each in found["results"]] == ["last-of-test"]
    assert found["results"][0]["folds"][0]["kept"].startswith("step ")


def test_clam_sb_needs_classes(numbered: Planted, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="clam-sb clusters regions by class"):
        numbered.evaluate(out, time_column="height", event_column="label", aggregator=("knn", "clam-sb"))
    assert not (out / "metrics.json").exists()
