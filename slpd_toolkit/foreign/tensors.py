"""Tensors that other tools saved (.pt, .npz), read without running code from them."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from slpd_toolkit.core.archives import check_zip, is_zip, read_npz
from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.files import atomic_path
from slpd_toolkit.models.weights import TORCH_LOAD_ERRORS

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

FEATURES = "features"


def read_tensor(path: Path) -> npt.NDArray[np.floating]:
    """Read the one tensor of a .pt file, mapped where it can be, or `features` of an .npz.

    Raises:
        SlideError: The file is unreadable, holds code, or no floating-point tensor.
    """
    try:
        found = _load(path)
    except OSError as error:
        raise _not_readable_now(path, error) from error
    except (pickle.UnpicklingError, *TORCH_LOAD_ERRORS) as error:
        raise SlideError(
            f"{path} cannot be read as a tensor ({next(iter(str(error).splitlines()), type(error).__name__)}).",
            hint="It is damaged, was cut short, or holds Python objects: save the tensor alone.",
        ) from error
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f":
        what = found.dtype if isinstance(found, np.ndarray) else type(found).__name__
        raise SlideError(f"{path} holds {what}, expected a floating-point tensor.", hint="Save the features alone.")
    return found


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read all arrays of an .npz.

    Raises:
        SlideError: The file is unreadable, or holds Python objects.
    """
    try:
        return read_npz(path)
    except OSError as error:
        raise _not_readable_now(path, error) from error
    except ValueError as error:
        raise SlideError(f"{path} cannot be read as .npz ({error}).", hint="It is damaged: write it again.") from error


def _not_readable_now(path: Path, error: OSError) -> SlideError:
    return SlideError(
        f"{path} cannot be read ({error.strerror or error}).",
        hint="The file itself may be intact: check its permissions and the disk or network drive.",
    )


def write_tensor(path: Path, values: npt.NDArray[np.floating]) -> None:
    """Write an array as the one tensor of a .pt file, atomically.

    Raises:
        OSError: The disk refuses.
    """
    with atomic_path(path) as partial:
        try:
            torch.save(torch.from_numpy(values), partial)
        except RuntimeError as error:  # how torch reports a full disk
            raise OSError(f"{path} cannot be written in full") from error


def _load(path: Path) -> object:
    if path.suffix == ".npz":
        return read_npz(path)[FEATURES]
    if is_zip(path):  # files of before torch 1.6 have no checksums, and cannot be mapped
        check_zip(path)
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    else:
        found = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, torch.Tensor):
        return found
    if found.layout != torch.strided or found.numel() * found.element_size() > found.untyped_storage().nbytes():
        raise ValueError(f"it claims {found.numel():,} numbers and does not hold them")
    return found.detach().float().numpy() if found.dtype == torch.bfloat16 else found.detach().numpy()
