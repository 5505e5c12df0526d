"""Reading tensors saved by other tools (.pt, .npz) without executing code."""

from __future__ import annotations

import pickle
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from slpd_toolkit.core.archives import check_zip, is_zip, read_npz
from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.files import atomic_path
from slpd_toolkit.core.text import count, listed
from slpd_toolkit.models.weights import TORCH_LOAD_ERRORS, pickled_content

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

FEATURES = "features"


def read_tensor(path: Path) -> npt.NDArray[np.floating]:
    """Read the only tensor of a .pt file, memory-mapped if possible, or `features` of an .npz.

    Raises:
        SlideError: The file is unreadable, contains code, or is not a floating-point tensor.
    """
    try:
        found = _load(path)
    except OSError as error:
        raise _not_readable_now(path, error) from error
    except pickle.UnpicklingError as error:
        raise SlideError(
            f"{path} cannot be read as a tensor: it contains more than a tensor ({pickled_content(error)}).",
            hint="Objects can run code when they are loaded. Save only the tensor.",
        ) from error
    except TORCH_LOAD_ERRORS as error:
        raise SlideError(
            f"{path} cannot be read as a tensor ({next(iter(str(error).splitlines()), type(error).__name__)}).",
            hint="It is damaged, truncated, or contains Python objects: save only the tensor.",
        ) from error
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f":
        what = found.dtype if isinstance(found, np.ndarray) else type(found).__name__
        raise SlideError(f"{path} contains {what}, expected a floating-point tensor.", hint="Save only the features.")
    return found


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read all arrays of an .npz.

    Raises:
        SlideError: The file is unreadable, or contains Python objects.
    """
    try:
        return read_npz(path)
    except OSError as error:
        raise _not_readable_now(path, error) from error
    except ValueError as error:
        raise SlideError(
            f"{path} cannot be read as .npz ({error}).", hint="The file is damaged: write it again."
        ) from error


def _not_readable_now(path: Path, error: OSError) -> SlideError:
    return SlideError(
        f"{path} cannot be read ({error.strerror or error}).",
        hint="The file itself may be intact: check its permissions and the disk or network drive.",
    )


def write_tensor(path: Path, values: npt.NDArray[np.floating]) -> None:
    """Write an array as the only tensor of a .pt file, atomically.

    Raises:
        OSError: The file cannot be written.
    """
    with atomic_path(path) as partial:
        try:
            torch.save(torch.from_numpy(values), partial)
        except RuntimeError as error:  # PyTorch's error for a full disk
            raise OSError(f"{path} cannot be written in full") from error


def _load(path: Path) -> object:
    if path.suffix == ".npz":
        arrays = read_npz(path)
        if FEATURES not in arrays:
            raise ValueError(f"it has no array {FEATURES!r}, only {listed(sorted(arrays)) or 'none'}")
        return arrays[FEATURES]
    zipped = is_zip(path)  # files written before torch 1.6 have no checksums and cannot be memory-mapped
    if zipped:
        check_zip(path)
    with warnings.catch_warnings(action="ignore"):  # PyTorch comments on old and foreign pickles
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    if not isinstance(found, torch.Tensor):
        return found
    if found.layout != torch.strided or found.numel() * found.element_size() > found.untyped_storage().nbytes():
        raise ValueError(f"it claims {count(found.numel(), 'number')}, but does not contain them")
    return found.detach().float().numpy() if found.dtype == torch.bfloat16 else found.detach().numpy()
