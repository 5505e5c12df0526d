"""Device and precision: resolved once and recorded in every output."""

from __future__ import annotations

import errno
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch

from slpd_toolkit.core.errors import DeviceMemoryError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slpd_toolkit.core.precision import Precision

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_CPU_SIGNS = ("DefaultCPUAllocator", "allocate memory", "not enough memory", "bad_alloc")


def resolve_device(name: str) -> torch.device:
    """Resolve `auto`, `cpu`, `cuda[:i]` or `mps` to an available device.

    Raises:
        UsageError: The device is not available, or `name` is not a device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device: got {name}, allowed: auto, cpu, cuda, cuda:<i>, mps.") from error
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(device.type, False) or (
        device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    ):
        raise UsageError(
            f"--device: {name} is not available; PyTorch sees {torch.cuda.device_count()} CUDA devices.",
            hint="Use --device auto.",
        )
    return device


def resolve_devices(names: str) -> list[torch.device]:
    """Resolve `auto` to all CUDA devices (else to `resolve_device`), and a list such as `cuda:0,cuda:2` to its devices.

    Raises:
        UsageError: A device is not available, or a name is not a device.
    """
    if names == "auto" and torch.cuda.device_count() > 1:
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [resolve_device(name.strip()) for name in names.split(",")]


def resolve_precision(requested: Precision, device: torch.device) -> Precision:
    """Resolve `auto` to bf16 where the device supports it natively, else to fp32.

    Raises:
        UsageError: fp16 was requested on a CPU, where it is neither fast nor numerically safe.
    """
    if requested == "fp16" and device.type == "cpu":
        raise UsageError("--precision: fp16 needs a GPU; on a CPU use bf16 or fp32.")
    if requested != "auto":
        return requested
    return "bf16" if _has_native_bf16(device) else "fp32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return a context that runs matrix products at `precision` and keeps sensitive operations in fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, _DTYPES[precision])


@contextmanager
def explain_out_of_memory(hint: str, *, at: str = "") -> Iterator[None]:
    """Replace out-of-memory errors of the block by a one-sentence error with a hint.

    Args:
        hint: What to do.
        at: What was being computed: `slide A with 99,856 regions`.

    Raises:
        DeviceMemoryError: Memory could not be allocated, on the device or on the CPU.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:  # includes torch.OutOfMemoryError
        first_line = str(error).partition("\n")[0].rstrip(".")
        if not _is_out_of_memory(error, first_line):
            raise
        message = f"Out of memory{f' at {at}' if at else ''}: {first_line or type(error).__name__}."
        raise DeviceMemoryError(message, hint=hint) from error


def _is_out_of_memory(error: Exception, first_line: str) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(sign in first_line for sign in _CPU_SIGNS)  # the CPU allocator has no error class


def describe(device: torch.device) -> str:
    """Return a human-readable name of the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)"


def _has_native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    features = torch.cpu.get_capabilities() if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities") else {}
    return any(features.get(name) for name in ("amx_bf16", "avx512_bf16", "arm_bf16", "bf16"))
