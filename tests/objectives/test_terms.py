"""A new term is one new file: listed by --help, used in training, and a column of metrics.csv."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from slpd_toolkit.commands import pretrain
from slpd_toolkit.config.objective import ObjectiveConfig
from slpd_toolkit.config.terms import objective_terms, term_names
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.objectives import terms
from slpd_toolkit.training.metrics_file import columns, read_metrics
from tests.training.runs import tiny

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPREAD = '''"""Distance between views: keeps the student's views of a region together."""

WEIGHT = 0.0
"""Weight of the distance between the student's views. 0 disables it."""


def loss(inputs):
    """Return the mean squared distance of views from their mean."""
    return (inputs.student - inputs.student.mean(0)).square().sum(-1).mean()
'''
SELF = '''"""Distillation from the teacher's first view alone."""

from slpd_toolkit.objectives.term import Targets, equal_pairs, everywhere

WEIGHT = 0.0
"""Weight of the distillation from the first view. 0 disables it."""
ORDER = 9


def targets(inputs):
    """Return the first view."""
    first = inputs.teacher[:1]
    return Targets(first, equal_pairs(first, inputs.student, skip_same=True), everywhere(inputs))
'''


@pytest.fixture
def more_terms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two files added to the package of terms."""
    folder = tmp_path / "terms"
    folder.mkdir()
    (folder / "view_spread.py").write_text(SPREAD)
    (folder / "first_view.py").write_text(SELF)
    monkeypatch.setattr(terms, "__path__", [*terms.__path__, str(folder)])
    importlib.invalidate_caches()
    yield folder
    for name in ("view_spread", "first_view"):
        sys.modules.pop(f"{terms.__name__}.{name}", None)


def test_the_terms_of_slpd_are_in_their_order() -> None:
    assert term_names() == ("dino", "intra", "inter", "masked", "koleo")
    assert [term.flag for term in objective_terms()][:3] == ["--dino-weight", "--intra-weight", "--inter-weight"]
    assert [term.weight for term in objective_terms()] == [1, 1, 1, 0, 0]
    assert columns()[2:9] == ("loss", "dino", "intra", "inter", "masked", "koleo", "target_entropy")


@pytest.mark.slow
def test_a_new_file_is_a_flag_in_help_without_importing_torch(more_terms: Path) -> None:
    script = (
        "import sys; from slpd_toolkit.objectives import terms; terms.__path__.append(sys.argv.pop())\n"
        "from slpd_toolkit.cli import app\n"
        "try: app.main()\n"
        "finally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "pretrain", "--help", more_terms], capture_output=True, text=True, check=True
    )
    said = " ".join(done.stdout.split())
    assert "--view-spread-weight <float> Weight" in said
    assert "--first-view-weight <float>" in said


@pytest.mark.slow
@pytest.mark.usefixtures("more_terms", "no_curves")
def test_a_new_file_is_trained_with_and_has_its_column(cache: Path, tmp_path: Path) -> None:
    config = tiny(cache, tmp_path / "out", epochs=1, log_every=1, view_spread_weight=0.5, first_view_weight=2.0)
    assert pretrain.run(config) == 0
    for row in read_metrics(config.out / "metrics.csv"):
        values = {name: float(row[name]) for name in ("loss", "dino", "intra", "inter", "first_view", "view_spread")}
        assert values["view_spread"] > 0
        assert values["first_view"] > 0
        expected = values["dino"] + 2 * values["first_view"] + 0.5 * values["view_spread"]
        assert values["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("more_terms")
def test_errors_list_every_term() -> None:
    with pytest.raises(UsageError, match="--first-view-weight, --view-spread-weight: got 0, 0, 0, 0, 0, 0, 0"):
        ObjectiveConfig(weights=dict.fromkeys(("dino", "intra", "inter"), 0.0))
    with pytest.raises(UsageError, match="got intro, allowed: dino, first-view, inter, intra, koleo, masked") as caught:
        ObjectiveConfig(weights={"intro": 1.0})
    assert "intra" in caught.value.hint
