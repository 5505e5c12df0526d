from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from slpd_toolkit.core.errors import WeightsError
from slpd_toolkit.models.weights import (
    backbone_state,
    head_state,
    load_strict,
    read_checkpoint,
    write_checkpoint,
)

if TYPE_CHECKING:
    from pathlib import Path

STATE = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.tensor([1.0, -1.0])}


def prefixed(prefix: str, state: dict[str, Tensor] = STATE) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"teacher": s}, lambda s: {"state_dict": s, "config": {}}])
def test_every_published_layout_loads(tmp_path: Path, prefix: str, wrap: Any) -> None:
    torch.save(wrap(prefixed(prefix)), tmp_path / "w.pth")
    model = nn.Linear(3, 2)
    load_strict(model, backbone_state(read_checkpoint(tmp_path / "w.pth"), "w.pth"), "w.pth")
    assert torch.equal(model.weight, STATE["weight"])
    assert torch.equal(model.bias, STATE["bias"])


def test_student_and_teacher_are_told_apart_and_the_head_is_kept_apart() -> None:
    student = {name: tensor + 1 for name, tensor in STATE.items()}
    checkpoint = {
        "student": prefixed("module.backbone.", student) | {"module.head.mlp.0.bias": torch.zeros(2)},
        "teacher": prefixed("backbone.") | {"head.mlp.0.bias": torch.ones(2)},
    }
    assert torch.equal(backbone_state(checkpoint, "w")["bias"], STATE["bias"])
    assert torch.equal(backbone_state(checkpoint, "w", "student")["bias"], STATE["bias"] + 1)
    assert backbone_state(checkpoint, "w").keys() == STATE.keys()
    assert torch.equal(head_state(checkpoint, "w")["mlp.0.bias"], torch.ones(2))
    assert torch.equal(head_state(checkpoint, "w", "student")["mlp.0.bias"], torch.zeros(2))


def test_a_dino_checkpoint_with_namespace_and_numpy_scalars_loads(tmp_path: Path) -> None:
    checkpoint = {
        "teacher": STATE,
        "optimizer": {"param_groups": [{"lr": np.float64(5e-4), "epoch": np.int64(3)}]},
        "args": argparse.Namespace(arch="vit4k_xs", out_dim=65_536),
    }
    torch.save(checkpoint, tmp_path / "w.pth")
    read = read_checkpoint(tmp_path / "w.pth")
    assert read["optimizer"]["param_groups"][0]["lr"] == 5e-4
    assert read["args"].arch == "vit4k_xs"


def test_safetensors_load(tmp_path: Path) -> None:
    save_file(prefixed("backbone."), tmp_path / "w.safetensors")
    assert torch.equal(backbone_state(read_checkpoint(tmp_path / "w.safetensors"), "w")["weight"], STATE["weight"])


class _RunsCode:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("owned",)


def test_pickled_code_is_refused_and_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"teacher": STATE, "epoch": _RunsCode()}, "w.pth")
    with pytest.raises(WeightsError, match="refused") as caught:
        read_checkpoint("w.pth")
    assert "safetensors" in caught.value.hint
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_truncated_garbage_empty_and_missing_files_are_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(WeightsError, match=r"w\.\w+: no such weights file"):
        read_checkpoint(path)
    whole = tmp_path / ("whole" + path.suffix)
    (save_file if path.suffix == ".safetensors" else torch.save)(STATE, whole)
    for content in (whole.read_bytes()[:-40], b"garbage", b""):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"w\.\w+(: refused| cannot be read)"):
            read_checkpoint(path)


def test_a_file_without_a_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="contains a list"):
        read_checkpoint(tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="contains no teacher weights, only epoch, name"):
        backbone_state({"name": "x", "epoch": 3}, "w.pth")


def test_every_disagreement_is_listed_and_nothing_is_loaded() -> None:
    model = nn.Linear(3, 2)
    before = model.bias.clone()
    state = {"bias": torch.ones(2), "weight": torch.zeros(2, 4), "extra": torch.zeros(1)}
    with pytest.raises(WeightsError) as caught:
        load_strict(model, state, "w.pth")
    assert "1 unexpected: extra" in caught.value.message
    assert "1 with the wrong shape: weight (2, 4) instead of (2, 3)" in caught.value.message
    assert torch.equal(model.bias, before)
    with pytest.raises(WeightsError, match="2 missing: bias, weight"):
        load_strict(model, {}, "w.pth")


def test_the_list_of_disagreements_is_bounded() -> None:
    state = {f"k{i:03}": torch.zeros(1) for i in range(500)}
    with pytest.raises(WeightsError, match=r"500 unexpected: k000, .* and 492 more") as caught:
        load_strict(nn.Linear(3, 2), state, "w.pth")
    assert len(caught.value.message) < 500


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    write_checkpoint(STATE, path)
    with pytest.raises(Exception, match="pickle"):
        write_checkpoint({"bad": lambda: None}, path)
    assert torch.equal(read_checkpoint(path)["bias"], STATE["bias"])
    assert [file.name for file in tmp_path.iterdir()] == ["w.pt"]


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html><html><body>Log in</body></html>", "a web page"),
        (b"\n<HTML>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a pointer of Git LFS"),
        (b'{"weight_map": {"a": "model-00001-of-00002.safetensors"}}', r"text \(JSON\)"),
    ],
)
def test_what_a_failed_download_leaves_is_recognised(tmp_path: Path, suffix: str, content: bytes, what: str) -> None:
    path = tmp_path / f"pytorch_model.{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"is {what}, not weights"):
        read_checkpoint(path)


def test_a_header_whose_length_looks_like_text_is_read(tmp_path: Path) -> None:
    """A header of 123 bytes makes a .safetensors file start with `{`."""
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(123)
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert path.read_bytes().startswith(b"{\0")
    assert torch.equal(read_checkpoint(path)["state_dict"]["w"], torch.zeros(1))
