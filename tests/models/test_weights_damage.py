"""Damaged weights are rejected if there is a checksum; they never cause other values, a hang or a crash."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from slpd_toolkit.core.errors import SlideError, WeightsError
from slpd_toolkit.foreign.tensors import read_tensor
from slpd_toolkit.models.weights import read_checkpoint, write_checkpoint, write_safetensors
from tests.mutation import mutants

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"one": torch.randn(7, 5, generator=generator), "two": torch.randn(64, generator=generator).half()}


def same(found: dict[str, Tensor]) -> bool:
    return found.keys() == state().keys() and all(torch.equal(found[name], each) for name, each in state().items())


@pytest.mark.parametrize("count", [40, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_mutants_of_weights_are_refused_or_equal(tmp_path: Path, name: str, count: int) -> None:
    path = tmp_path / name
    if path.suffix == ".pt":
        write_checkpoint({"state_dict": state()}, path)
    else:
        write_safetensors(state(), {"depth": 1}, path)
    whole, refused = path.read_bytes(), 0
    assert same(read_checkpoint(path)["state_dict"])
    for mutant in mutants(whole, count, seed=3):
        path.write_bytes(mutant)
        try:
            found = read_checkpoint(path)
        except WeightsError as error:
            refused += path.name in error.message and bool(error.hint)
            continue
        assert same(found["state_dict"])
        assert found.get("config", {"depth": 1}) == {"depth": 1}
    assert refused > count // 3


def test_safetensors_of_others_have_no_digest_and_are_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(state(), tmp_path / "a.safetensors")
    assert same(read_checkpoint(tmp_path / "a.safetensors")["state_dict"])


@pytest.mark.parametrize("count", [40, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutants_of_a_tensor_are_refused_or_equal(tmp_path: Path, count: int) -> None:
    path = tmp_path / "a.pt"
    wanted = torch.randn(9, 16, 4)
    torch.save(wanted, path)
    whole, refused = path.read_bytes(), 0
    for mutant in mutants(whole, count, seed=4):
        path.write_bytes(mutant)
        try:
            found = read_tensor(path)
        except SlideError as error:
            refused += path.name in error.message
            continue
        assert found.tobytes() == wanted.numpy().tobytes()
    assert refused > count // 3


def test_a_tensor_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(1).expand(10**9, 400), tmp_path / "a.pt")
    with pytest.raises(SlideError, match=r"a\.pt cannot be read as a tensor \(it claims 400,000,000,000 numbers"):
        read_tensor(tmp_path / "a.pt")


def test_equal_weights_are_equal_files(tmp_path: Path) -> None:
    files = []
    for number in range(12):  # the library writes metadata in random order
        write_safetensors(state(), {"depth": 1, "name": "ü\n/"}, tmp_path / f"{number}.safetensors")
        files.append((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(set(files)) == 1
    assert read_checkpoint(tmp_path / "0.safetensors")["config"] == {"depth": 1, "name": "ü\n/"}
