"""Reading and writing weights, without executing code from a file and without skipping keys.

Supports `.safetensors`, and what DINO, HIPT, the published SLPD code and this project write with `torch.save`: a state
dict, or a dict that holds one under `teacher`, `student` or `state_dict`. Keys may have the prefixes `module.` and
`backbone.`, and `head.*` keys may be present.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from slpd_toolkit.core.archives import check_zip, is_zip
from slpd_toolkit.core.errors import WeightsError
from slpd_toolkit.core.files import atomic_path, require_regular
from slpd_toolkit.core.text import listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

Network = Literal["teacher", "student"]

# DINO checkpoints contain an argparse namespace and, in the optimizer state, NumPy scalars. Unpickling these runs no
# code from the file, so they are allowed; all other classes are rejected.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
]

TORCH_LOAD_ERRORS = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
)
"""What `torch.load` raises for truncated files, files of other types, and files with pickled code."""
_SHA256 = "slpd_sha256"
"""Metadata key in .safetensors files written by this module: the format itself has no checksum."""
_SHA256_CHARACTERS = 64


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """Load a weights file onto the CPU without executing code from it.

    Verifies the checksums of zip archives (`torch.save` since PyTorch 1.6) and of .safetensors files written by this
    project. Other .safetensors files, and files of older PyTorch versions, have none.

    Raises:
        WeightsError: The file is missing, truncated, contains pickled code, or is not a dict.
    """
    path = Path(path)
    try:
        _refuse_other_files(path)
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        if is_zip(path):  # PyTorch does not verify the checksums
            check_zip(path)
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings(action="ignore"):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such weights file.", hint="Check the path.") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: refused, because it contains more than plain weights ({pickled_content(error)}).",
            hint="If you trust its source, load it yourself and save its state dict as .safetensors.",
        ) from error
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read as weights ({error.strerror or error}).",
            hint="The file itself may be intact: check its permissions and the disk or network drive.",
        ) from error
    except (SafetensorError, *TORCH_LOAD_ERRORS) as error:
        raise WeightsError(
            f"{path} cannot be read as weights ({_first_line(error)}).",
            hint="The file is damaged or truncated: download or copy it again and compare its SHA-256.",
        ) from error
    if not isinstance(checkpoint, dict):
        raise WeightsError(
            f"{path} contains a {type(checkpoint).__name__}, expected a state dict or a dict with 'teacher'.",
            hint="Save the model's state_dict() instead.",
        )
    return checkpoint


def backbone_state(
    checkpoint: Mapping[str, Any], origin: Path | str, network: Network = "teacher"
) -> dict[str, Tensor]:
    """Return the backbone's tensors by name, without prefixes and without `head.*`.

    Args:
        checkpoint: Result of `read_checkpoint`.
        origin: The file, for messages.
        network: Which network to use if the file contains two.

    Raises:
        WeightsError: The checkpoint does not contain this network.
    """
    bare = _bare_names(checkpoint, origin, network)
    return {name: tensor for name, tensor in bare.items() if not name.startswith("head.")}


def head_state(checkpoint: Mapping[str, Any], origin: Path | str, network: Network = "teacher") -> dict[str, Tensor]:
    """Return the DINO head's tensors without the prefix `head.`; empty if there is no head. See `backbone_state`."""
    bare = _bare_names(checkpoint, origin, network)
    return {name.removeprefix("head."): tensor for name, tensor in bare.items() if name.startswith("head.")}


def require_room(state: Mapping[str, object], least: float, origin: Path | str) -> None:
    """Check that a file has the values of the architecture that it states, before memory is allocated for it.

    Args:
        state: Tensors of the file.
        least: Number of values that the architecture has at least; see `transformer.fewest_values`.
        origin: The file, for messages.

    Raises:
        WeightsError: It has fewer values.
    """
    found = sum(tensor.numel() for tensor in state.values() if isinstance(tensor, Tensor))
    if not least <= found:
        raise WeightsError(
            f"{origin}: the stored config describes a network of {least:,.0f} or more values, but the file has "
            f"{found:,}.",
            hint="The file is damaged, or was changed: copy it again.",
        )


def load_strict(model: nn.Module, state: Mapping[str, Tensor], origin: Path | str) -> None:
    """Copy tensors into a model, either all or none.

    Raises:
        WeightsError: Keys are missing, unexpected or have the wrong shape; the message lists them.
    """
    wanted = model.state_dict()
    problems = {
        "missing": sorted(wanted.keys() - state.keys()),
        "unexpected": sorted(state.keys() - wanted.keys()),
        "with the wrong shape": [
            f"{name} {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
            for name in sorted(wanted.keys() & state.keys())
            if state[name].shape != wanted[name].shape
        ],
    }
    found = [f"{len(names)} {kind}: {listed(names)}" for kind, names in problems.items() if names]
    if found:
        raise WeightsError(
            f"{origin}: the weights do not match this {type(model).__name__} ({'; '.join(found)}).",
            hint="Check that file, architecture and token width match; nothing was loaded.",
        )
    model.load_state_dict(dict(state))


def write_checkpoint(checkpoint: Mapping[str, Any], path: Path | str) -> None:
    """Write tensors and plain Python values with `torch.save`, atomically.

    Raises:
        OSError: The file cannot be written (disk full, quota).
    """
    with atomic_path(Path(path)) as partial:
        try:
            torch.save(dict(checkpoint), partial)
        except RuntimeError as error:  # PyTorch's error for a full disk
            raise OSError(f"{path} cannot be written in full ({_first_line(error)})") from error


def write_safetensors(state: Mapping[str, Tensor], config: Mapping[str, object], path: Path | str) -> None:
    """Write tensors as .safetensors, atomically, with the config as JSON in the file's metadata.

    Raises:
        OSError: The file cannot be written (disk full, quota).
    """
    with atomic_path(Path(path)) as partial:
        text = json.dumps(dict(config))
        metadata = {"config": text, "format": "pt", _SHA256: _digest(state, text)}
        try:
            save_file(dict(state), partial, metadata=metadata)
        except SafetensorError as error:  # safetensors' error for a full disk
            raise OSError(f"{path} cannot be written in full ({_first_line(error)})") from error
        _sort_metadata(partial)


def _sort_metadata(path: Path) -> None:
    """Sort the metadata in the header of a .safetensors file; the library writes them in random order."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        if len(text) == size:
            file.seek(8)
            file.write(text)


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        config = metadata.get("config")
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is not a mapping
    # Damage to the key or the length of the digest must not disable the check: whatever is left of either counts.
    has_digest = any(
        _SHA256 in key or len(text) == _SHA256_CHARACTERS for key, text in metadata.items() if key != "config"
    )
    if has_digest and metadata.get(_SHA256) != _digest(state, config or ""):
        raise ValueError("its tensors or its config do not match their checksum")
    return {"state_dict": state} | ({"config": json.loads(config)} if config else {})


def _digest(state: Mapping[str, Tensor], config: str) -> str:
    digest = hashlib.sha256(config.encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _bare_names(checkpoint: Mapping[str, Any], origin: Path | str, network: Network) -> dict[str, Tensor]:
    state = checkpoint
    for key in (network, "state_dict"):
        if isinstance(checkpoint.get(key), dict):
            state = checkpoint[key]
            break
    bare = {
        name.removeprefix("module.").removeprefix("backbone."): value
        for name, value in state.items()
        if isinstance(value, Tensor)
    }
    if not bare:
        raise WeightsError(
            f"{origin} contains no {network} weights, only {listed(sorted(map(str, checkpoint)))}.",
            hint="Expected a state dict, or a dict with 'teacher', 'student' or 'state_dict'.",
        )
    return bare


def _refuse_other_files(path: Path) -> None:
    """Recognize files that failed downloads leave instead of weights.

    Raises:
        WeightsError: The file is one of these.
        OSError: The file cannot be read.
    """
    require_regular(path)
    with path.open("rb") as file:
        start = file.read(_START_BYTES).lstrip().lower()
    for marks, what, hint in _NOT_WEIGHTS:
        if start.startswith(marks) and b"\0" not in start:  # .safetensors start with a length, which may look like "{"
            raise WeightsError(f"{path}: is {what}, not weights.", hint=hint)


_START_BYTES = 64
_NOT_WEIGHTS = (
    (
        (b"<!doctype", b"<html", b"<?xml"),
        "a web page",
        "The download was refused: log in, accept the terms on the model's page, and download the file again.",
    ),
    (
        (b"version https://git-lfs",),
        "a pointer of Git LFS",
        "Run `git lfs pull` in the folder that it is from, or download the file itself.",
    ),
    (
        (b"{", b"["),
        "text (JSON)",
        "Download the weights themselves: one .safetensors, .bin, .pth or .pt file.",
    ),
)
"""How other files start, what they are, and what to do."""


def pickled_content(error: pickle.UnpicklingError) -> str:
    """Name what a pickle contains besides tensors. PyTorch's own message recommends loading it unsafely."""
    found = _GLOBAL.search(str(error))
    return f"it refers to {found[1]}" if found else "Python objects"


_GLOBAL = re.compile(r"GLOBAL (\S+)")


def _first_line(error: BaseException) -> str:
    """Return the first line of a message; with the kind of error where the message is a bare word or number."""
    line = next(iter(str(error).splitlines()), "")
    return line if " " in line else f"{type(error).__name__} {line}".strip()
