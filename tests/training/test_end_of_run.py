"""What `slpd pretrain` says at the end of runs that have not learned, from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slpd_toolkit.cli.app import app
from tests.token_factory import write_cache
from tests.training.runs import TINY

if TYPE_CHECKING:
    from pathlib import Path

SELF_DISTILLATION = TINY | {"intra_weight": 0, "inter_weight": 0, "depth": 1, "out_dim": 8, "log_every": 1}


def end_of(folder: Path, capsys: pytest.CaptureFixture[str], **changes: object) -> str:
    """Train from the command line, and return what was printed after the last step."""
    cache = write_cache(folder / "cache", (9, 8, 7), grid=5)
    given = SELF_DISTILLATION | changes
    flags = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    with pytest.raises(SystemExit) as ended:
        app(["pretrain", str(cache), "--out", str(folder / "run"), *flags])
    assert not ended.value.code
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
@pytest.mark.usefixtures("no_curves")
def test_targets_that_collapsed_are_named_with_what_to_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nearly no centering and very sharp targets: all regions get the same output."""
    said = end_of(tmp_path, capsys, centre_momentum=0.99999, teacher_temp=0.0005, epochs=2)
    assert "The targets have collapsed: all regions get the same output" in said
    assert "Raise --teacher-temp (0.04), lower --lr, or raise --teacher-momentum." in said


@pytest.mark.usefixtures("no_curves")
def test_a_loss_that_stayed_uniform_is_named_with_what_to_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Targets that are too soft stay uniform."""
    said = end_of(tmp_path, capsys, lr=1e-9, teacher_temp=1.0, epochs=1)
    assert "The network has learned almost nothing: self-distillation ended at a loss of" in said
    assert "uniform predictions over 8 outputs have 2.08. Lower --teacher-temp (0.02), train longer (--epochs)" in said
