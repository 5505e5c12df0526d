from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.mil.descriptors.descriptor import ChosenDescriptor
from slpd_toolkit.representations.sources import Kind, Source, parse_sources

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run, a run without weights, and some files, in the working directory."""
    for name in ("runs/slpd/region_vit.pt", "hipt.pth", "titan.csv", "a=b.npz", "my titan.csv", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("model", "name", "kind", "path"),
    [
        ("runs/slpd", "slpd", Kind.REGION_VIT, "runs/slpd/region_vit.pt"),
        ("runs/slpd/region_vit.pt", "slpd", Kind.REGION_VIT, "runs/slpd/region_vit.pt"),
        ("ours=runs/slpd", "ours", Kind.REGION_VIT, "runs/slpd/region_vit.pt"),
        ("hipt.pth", "hipt", Kind.REGION_VIT, "hipt.pth"),
        ("titan.csv", "titan", Kind.TABLE, "titan.csv"),
        ("t=my titan.csv", "t", Kind.TABLE, "my titan.csv"),
        ("x=a=b.npz", "x", Kind.TABLE, "a=b.npz"),
        ("mean-tokens", "mean-tokens", Kind.MEAN_TOKENS, None),
        ("blank=untrained", "blank", Kind.UNTRAINED, None),
    ],
)
def test_a_model_is_what_it_names(files: Path, model: str, name: str, kind: Kind, path: str | None) -> None:
    (source,) = parse_sources([model])
    assert (source.name, source.kind) == (name, kind)
    assert (source.path and source.path.as_posix()) == path
    assert source.needs_tokens == (kind is not Kind.TABLE)


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (["empty"], r"empty is not a run folder: it has no region_vit\.pt"),
        (["absent.pt"], r"absent\.pt does not exist\. Allowed: a run folder"),
        (["untraind"], r"untraind does not exist \(did you mean untrained\?\)"),
        (["notes.txt"], r"notes\.txt has an unknown file type"),
        (["my titan.csv"], "'my titan' is not a valid name.*my-name=my titan"),
        (["runs/slpd", "slpd=hipt.pth"], "the name slpd is used more than once"),
        (["mean-tokens", "mean-tokens"], "the name mean-tokens is used more than once"),
        (["absent.pt", "notes.txt"], r"(?s)2 problems found:.*absent.*notes"),
    ],
)
def test_what_is_no_model_is_told(files: Path, models: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_sources(models)
    import re

    assert re.search(said, str(caught.value)), str(caught.value)


def test_a_file_whose_name_looks_like_a_name_and_a_source_is_itself(files: Path) -> None:
    with pytest.raises(UsageError, match="'a=b' is not a valid name"):
        parse_sources(["a=b.npz"])
    assert parse_sources(["c=titan.csv"]) == [Source("c", Kind.TABLE, parse_sources(["titan.csv"])[0].path)]


@pytest.mark.parametrize(
    ("model", "name", "descriptor"),
    [
        ("runs/slpd#prototypes", "slpd-prototypes", ChosenDescriptor("prototypes", 4)),
        ("runs/slpd#histogram:32", "slpd-histogram", ChosenDescriptor("histogram", 32)),
        ("h=mean-tokens#mean-sd", "h", ChosenDescriptor("mean-sd", 0)),
        ("mean-tokens#mixture", "mean-tokens-mixture", ChosenDescriptor("mixture", 16)),
        ("runs/slpd#mean+mean-token", "slpd-mean-mean-token", ChosenDescriptor("mean", 0, mean_token=True)),
        ("h=runs/slpd#mixture:2+mean-token", "h", ChosenDescriptor("mixture", 2, mean_token=True)),
    ],
)
def test_a_descriptor_is_named_after_a_number_sign(
    files: Path, model: str, name: str, descriptor: ChosenDescriptor
) -> None:
    (source,) = parse_sources([model])
    assert (source.name, source.descriptor) == (name, descriptor)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("runs/slpd#histgram", "descriptor: got histgram, allowed: histogram, .*Did you mean histogram"),
        ("runs/slpd#mean:4", "descriptor: got mean:4, allowed: mean, which has no clusters"),
        ("runs/slpd#histogram:0", "got histogram:0, allowed: histogram:1 to histogram:1024"),
        ("runs/slpd#histogram:x", "got histogram:x, allowed"),
        ("titan.csv#histogram", r"titan\.csv has one vector per slide, which #histogram cannot describe"),
        ("runs/slpd#", "descriptor: got , allowed: histogram"),
        ("runs/slpd#+mean-token", "descriptor: got , allowed: histogram"),
        ("runs/slpd#mean+mean-tokens", r"descriptor: got mean\+mean-tokens, allowed: histogram"),
        ("runs/slpd#prototypes:2+mean-token", r"got prototypes:2\+mean-token, allowed: \+mean-token after .* as mean"),
    ],
)
def test_wrong_descriptors_are_told(files: Path, model: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_sources([model])


def test_a_file_whose_name_has_a_number_sign_is_itself(files: Path) -> None:
    (files / "t#1.csv").touch()
    assert parse_sources(["t=t#1.csv"])[0].descriptor is None
