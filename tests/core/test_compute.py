from __future__ import annotations

import pytest
import torch

from slpd_toolkit.core import compute
from slpd_toolkit.core.errors import DeviceMemoryError, UsageError

CPU = torch.device("cpu")


def test_auto_is_the_best_device_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, mps, expected in [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert compute.resolve_device("auto").type == expected


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cpu:zero"])
def test_what_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"--device: got .*allowed: auto, cpu, cuda"):
        compute.resolve_device(name)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert compute.resolve_device("cuda:1") == torch.device("cuda:1")
    assert compute.resolve_device("cuda") == torch.device("cuda")
    with pytest.raises(UsageError, match="--device: cuda:2 is not available; PyTorch sees 2 CUDA devices") as caught:
        compute.resolve_device("cuda:2")
    assert "auto" in caught.value.hint
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "xla", "meta"):
        with pytest.raises(UsageError, match=f"{name} is not available"):
            compute.resolve_device(name)


@pytest.mark.parametrize(
    ("features", "expected"), [({"avx512_bf16": True}, "bf16"), ({"avx2": True}, "fp32"), ({}, "fp32")]
)
def test_auto_is_bf16_where_the_cpu_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, features: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert compute.resolve_precision("auto", CPU) == expected
    assert compute.resolve_precision("fp32", CPU) == "fp32"
    assert compute.resolve_precision("bf16", CPU) == "bf16"


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        compute.resolve_precision("fp16", CPU)
    assert compute.resolve_precision("fp16", torch.device("cuda")) == "fp16"


def test_products_run_at_the_precision() -> None:
    matrix = torch.ones(2, 2)
    with compute.autocast(CPU, "bf16"):
        assert (matrix @ matrix).dtype == torch.bfloat16
    with compute.autocast(CPU, "fp32"):
        assert (matrix @ matrix).dtype == torch.float32


def test_a_cpu_is_named_with_its_threads() -> None:
    assert compute.describe(CPU) == f"cpu ({torch.get_num_threads()} threads)"


def test_a_full_device_is_a_sentence_and_other_errors_stay_what_they_are() -> None:
    with pytest.raises(DeviceMemoryError, match=r"^Out of memory: .*DefaultCPUAllocator.* Do less\.$"):  # noqa: SIM117
        with compute.explain_out_of_memory("Do less."):
            torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(DeviceMemoryError, match=r"^Out of memory: CUDA out of memory\. Do less\.$"):  # noqa: SIM117
        with compute.explain_out_of_memory("Do less."):
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB.")
    with pytest.raises(RuntimeError, match="sizes differ"), compute.explain_out_of_memory("Do less."):
        raise RuntimeError("sizes differ")
