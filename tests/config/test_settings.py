"""Nested configurations are one flat table of settings."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field

import pytest

from slpd_toolkit.cli.app import app
from slpd_toolkit.config.mil_eval import MilEvalConfig
from slpd_toolkit.config.old_keys import without_old_keys
from slpd_toolkit.config.pretrain import PretrainConfig
from slpd_toolkit.config.recipe import build
from slpd_toolkit.config.settings import assemble, flatten, settings_of
from slpd_toolkit.core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part."""

    size: int = 2
    """Size."""


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A configuration with a part."""

    name: str
    """Name."""

    # -- Shape --
    part: Part = field(default_factory=Part)

    # -- Running --
    jobs: int = 1
    """Jobs."""


@dataclass(frozen=True, kw_only=True)
class Clash:
    """A configuration with a setting that has the name of a setting in its part."""

    size: int = 1
    """Size."""
    part: Part = field(default_factory=Part)


@dataclass(frozen=True, kw_only=True)
class Undocumented:
    """A configuration with a setting without a docstring."""

    size: int = 1


def test_settings_of_parts_stand_in_the_section_of_the_part() -> None:
    known = settings_of(Whole)
    assert [(name, setting.section) for name, setting in known.items()] == [
        ("name", ""),
        ("size", "Shape"),
        ("jobs", "Running"),
    ]
    assert known["name"].default is MISSING
    assert (known["size"].default, known["size"].type, known["size"].help) == (2, int, "Size.")


def test_flat_values_make_the_parts_and_parts_give_flat_values() -> None:
    made = build(Whole, {"name": "a", "size": 7})
    assert made == Whole(name="a", part=Part(size=7))
    assert flatten(made) == {"name": "a", "size": 7, "jobs": 1}
    assert assemble(Whole, flatten(made)) == made


def test_a_name_that_occurs_twice_or_is_not_described_is_an_error_of_the_program() -> None:
    with pytest.raises(TypeError, match="Clash: two settings are named size"):
        settings_of(Clash)
    with pytest.raises(TypeError, match="Undocumented: the setting size has no docstring"):
        settings_of(Undocumented)


def test_names_that_are_no_settings_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"Settings: unknown key `sise` \(did you mean `size`\?\)") as caught:
        build(Whole, {"name": "a", "sise": 7})
    assert caught.value.hint == "Known settings: name, size, jobs."
    with pytest.raises(UsageError, match=r"`optimiser` = 'lars': no longer a setting\. AdamW is the only optimizer"):
        build(PretrainConfig, {"cache": "cache", "out": "out", "optimiser": "lars"})


def test_an_old_key_that_never_mattered_is_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    values = {"manifest": "m.csv", "target": "label", "model": ["v=v.npz"], "out": "out"}
    assert without_old_keys(MilEvalConfig, values | {"bootstrap": 20}) == values
    command = ["mil-eval", "--manifest", "absent.csv", "--target", "label", "--model", "v=v.npz", "--out", "out"]
    with pytest.raises(SystemExit):
        app([*command, "--bootstrap", "20"])
    assert "--bootstrap is not used. Intervals no longer use a bootstrap" in capsys.readouterr().err
