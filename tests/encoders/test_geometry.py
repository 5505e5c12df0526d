from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from slpd_toolkit.config.embed import EmbedConfig
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.encoders.geometry import preferred_precision, resolve_geometry


def geometry(encoder: str, **given: Any) -> tuple[tuple[int, float, int], list[str]]:
    found, remarks = resolve_geometry(EmbedConfig(manifest=Path("m.csv"), out=Path("c"), encoder=(encoder,), **given))
    assert found.grid * found.patch_px == found.region_px
    return (found.patch_px, found.mpp, found.region_px), remarks


@pytest.mark.parametrize(
    ("encoder", "given", "expected"),
    [
        ("uni", {}, (256, 0.5, 4096)),
        ("virchow2", {}, (224, 0.5, 3584)),
        ("conch-v1.5", {}, (512, 0.5, 8192)),
        ("chief-ctranspath", {}, (256, 1.0, 4096)),
        ("gpfm", {}, (512, 0.25, 8192)),
        ("gpfm", {"mpp": 0.5}, (256, 0.5, 4096)),
        ("gpfm", {"patch_px": 224}, (224, 0.5, 3584)),
        ("virchow2", {"mpp": 2.0}, (224, 2.0, 3584)),
        ("uni", {"region_px": 1024}, (256, 0.5, 1024)),
        ("random", {}, (256, 0.5, 4096)),
        ("random", {"patch_px": 64}, (64, 0.5, 1024)),
        ("timm:resnet10t", {}, (256, 0.5, 4096)),
        ("timm:resnet10t", {"patch_px": 100, "mpp": 1.0, "region_px": 200}, (100, 1.0, 200)),
    ],
)
def test_a_preset_fills_in_what_was_not_asked_for(
    encoder: str, given: dict[str, Any], expected: tuple[int, float, int]
) -> None:
    assert geometry(encoder, **given) == (expected, [])


def test_another_resolution_is_remarked_upon() -> None:
    values, (remark,) = geometry("uni", mpp=1.0)
    assert values == (256, 1.0, 4096)
    assert remark == "uni was made for 256-px patches at 0.5 um/px; they are read at 1 um/px, as requested."
    assert geometry("handcrafted", mpp=1.0)[1] == []


@pytest.mark.parametrize(
    ("encoder", "patch_px", "allowed"),
    [("virchow2", 256, "224"), ("uni", 512, "256, 224"), ("gigapath", 224, "256"), ("hipt", 100, "multiples of 16")],
)
def test_a_patch_size_that_the_encoder_was_not_made_for_is_refused(encoder: str, patch_px: int, allowed: str) -> None:
    with pytest.raises(UsageError, match=rf"--patch-px: got {patch_px}, allowed with encoder {encoder}: {allowed}\."):
        geometry(encoder, patch_px=patch_px)


def test_a_region_that_is_no_multiple_of_the_filled_in_patch_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--region-px: got 1024, allowed: a multiple of the patch size \(224 px\)"):
        geometry("virchow2", region_px=1024)


@pytest.mark.parametrize(
    ("encoder", "requested", "device", "expected"),
    [
        ("hipt", "auto", "cuda", "fp32"),
        ("hipt", "bf16", "cpu", "bf16"),
        ("uni", "auto", "cuda", "fp16"),
        ("uni", "auto", "cpu", "auto"),
        ("uni2-h", "auto", "cuda", "bf16"),
        ("random", "auto", "cuda", "auto"),
        ("timm:resnet10t", "auto", "cuda", "auto"),
    ],
)
def test_auto_is_the_precision_of_the_preset_where_the_device_is_made_for_it(
    encoder: str, requested: Any, device: str, expected: str
) -> None:
    assert preferred_precision(encoder, requested, torch.device(device)) == expected
