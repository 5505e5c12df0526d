"""The format of a token file, `<cache>/<slide_id>.h5`, version 2: names, shapes, dtypes and attributes."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from slpd_toolkit.config.region_selection import ACCEPTANCE, RegionSelectionConfig
from slpd_toolkit.core.errors import CacheError
from slpd_toolkit.core.files import is_safe_name
from slpd_toolkit.core.version import is_version

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

SCHEMA = "slpd-tokens"
VERSION = 2
"""Version 2 added `CHECKSUMS` and `DIGEST`, and stores strings with a fixed length."""
READ_VERSIONS = (1, 2)
SUFFIX = ".h5"

TOKENS, COORDS, TISSUE = "tokens", "coords", "tissue"
PRESENT = "present"
"""Present only if some patch of the slide has no token."""
CHECKSUMS = "checksums"
"""CRC-32 of the tokens of each region."""
DIGEST = "digest"
"""Attribute: BLAKE2b of the other attributes, the arrays and the checksums (and so of the tokens); see `digest`."""
TOKEN_DTYPE = np.dtype("<f2")
COORD_DTYPE = np.dtype("<i8")
TISSUE_DTYPE = np.dtype("<f2")
PRESENT_DTYPE = np.dtype(bool)
CHECKSUM_DTYPE = np.dtype("<u4")

FURTHEST_L0 = 10**9
"""Upper bound of the side of a slide, px."""

_LOST_SHARE, _LOST = 0.01, 3
"""Fraction and number of features of a token that may become zero in float16; a few are close to zero by chance."""

_WITHOUT_SIGN, _INFINITY = (
    np.uint16(0x7FFF),
    np.uint16(0x7C00),
)  # bit patterns of float16; those of NaN are above infinity


@dataclass(frozen=True, kw_only=True)
class TokenMeta:
    """Attributes of a token file; each field is an HDF5 attribute."""

    slide_id: str
    slide_width_l0: int
    slide_height_l0: int
    slide_fingerprint: str
    mpp_l0: float
    target_mpp: float
    effective_mpp: float
    upsampling: float
    patch_px: int
    region_px: int
    region_l0: int
    min_tissue: float
    encoder: str
    encoder_sha256: str
    encoder_input_px: int
    embedding_dim: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    precision: str
    toolkit_version: str
    recipe: str
    """Every resolved setting of the run that wrote the file, as JSON."""
    mask: str = ""
    """The mask of the user that was used, as JSON: file, digest, mode, classes; empty, and not stored, without one."""
    stain: str = ""
    """The change of stain under which patches were encoded, as JSON (see `encoders.stain`); empty, and not stored, if
    they were encoded as they are."""
    source: str = ""
    """The files of another tool that this file was imported from and how their patches were placed, as JSON; empty if
    slpd embed read the slide itself."""

    @property
    def grid(self) -> int:
        """Number of patches along one side of a region."""
        return self.region_px // self.patch_px

    @property
    def located(self) -> bool:
        """Whether coordinates are level-0 px of the slide, so that its pixels can be located."""
        return not self.source or bool(json.loads(self.source).get("located", True))

    def to_attributes(self) -> dict[str, Any]:
        """Return the HDF5 attributes."""
        return {"schema": SCHEMA, "schema_version": VERSION, **_stored(asdict(self))}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any], path: Path) -> TokenMeta:
        """Create from HDF5 attributes.

        Raises:
            CacheError: `path` is not a token file, has another version, or lacks an attribute.
        """
        schema, version = _plain(attributes.get("schema")), _plain(attributes.get("schema_version"))
        if schema == SCHEMA and type(version) is int and version not in READ_VERSIONS:
            raise CacheError(
                f"{path} is a token file of version {version}; this slpd_toolkit reads {_listed(READ_VERSIONS)}.",
                hint="Update slpd_toolkit, or write the file again with this one (`slpd embed --overwrite`).",
            )
        if schema != SCHEMA or not is_version(version, READ_VERSIONS):
            raise CacheError(
                f"{path} is not a token file: schema {schema!r} {version!r}, expected {SCHEMA!r} "
                f"{_listed(READ_VERSIONS)}.",
                hint="Move it out of the cache, or write it again with `slpd embed`.",
            )
        stored = [item for item in fields(cls) if item.default is MISSING or item.name in attributes]
        missing = [item.name for item in stored if item.name not in attributes]
        if missing:
            raise CacheError(
                f"{path} lacks the attributes {', '.join(missing)}.", hint="Write it again with `slpd embed`."
            )
        values = {item.name: _typed(str(item.type), _plain(attributes[item.name])) for item in stored}
        wrong = [f"{name} is {_plain(attributes[name])!r}" for name, value in values.items() if value is None]
        wrong = wrong or _out_of_range(values)
        if wrong:
            raise CacheError(f"{path} has invalid attributes: {'; '.join(wrong)}.", hint=REWRITE)
        return cls(**values)


REWRITE = "The file is damaged or was changed: remove it, and run `slpd embed` or `slpd import` again."

ENCODER_FIELDS = ("encoder", "encoder_sha256", "encoder_input_px", "embedding_dim", "mean", "std", "precision")
"""Attributes that determine the features; features of files that differ in them are not comparable."""

GRID_FIELDS = ("target_mpp", "patch_px", "region_px")
"""Attributes that determine the regions; regions of files that differ in them are not comparable."""

COHORT_FIELDS = (*ENCODER_FIELDS, *GRID_FIELDS)
"""Attributes that must be the same for all files of a cache."""

RUN_FIELDS = (*COHORT_FIELDS, "min_tissue")
"""Attributes of existing files that must match a run that adds to their cache."""

SLIDE_FIELDS = (
    "slide_id",
    "slide_width_l0",
    "slide_height_l0",
    "slide_fingerprint",
    "mpp_l0",
    "region_l0",
    "mask",
    "stain",
)
"""Attributes, in addition to `RUN_FIELDS`, of an existing file that must match a slide for a run to skip it."""


def run_disagreement(found: TokenMeta, wanted: TokenMeta) -> str:
    """List each setting that a cache cannot mix and that differs, with both values; empty if none does.

    These are `RUN_FIELDS`, and settings of the selection of regions in the recipes of `slpd embed`. Recipes of versions
    without a setting have its default.
    """
    pairs = [(name, getattr(found, name), getattr(wanted, name)) for name in RUN_FIELDS]
    settings = {item.name for item in fields(RegionSelectionConfig)} - {*RUN_FIELDS, *ACCEPTANCE}
    if settings and not found.source and not wanted.source:  # recipes are parsed only if there is something to compare
        one, other = (_object_in(meta.recipe) or {} for meta in (found, wanted))
        defaults = json.loads(json.dumps(asdict(RegionSelectionConfig())))  # lists as in recipes
        pairs += [(name, *(each.get(name, defaults[name]) for each in (one, other))) for name in sorted(settings)]
    return _differences(pairs)


def disagreement(found: TokenMeta, wanted: TokenMeta, names: tuple[str, ...]) -> str:
    """List each of the attributes `names` that differs, with both values; empty if none does."""
    return _differences([(name, getattr(found, name), getattr(wanted, name)) for name in names])


def _differences(pairs: list[tuple[str, Any, Any]]) -> str:
    return ", ".join(f"{name}: {one!r} there, {other!r} here" for name, one, other in pairs if one != other)


def digest(
    meta: TokenMeta,
    coords: npt.NDArray[np.int64],
    tissue: npt.NDArray[np.float16],
    present: npt.NDArray[np.bool_] | None,
    checksums: npt.NDArray[np.uint32],
) -> str:
    """Compute the digest of a token file: 32 hexadecimal digits.

    Args:
        meta: Attributes of the file.
        coords: (R, 2), as stored.
        tissue: (R, grid, grid), as stored.
        present: (R, grid, grid), or None if all patches have a token.
        checksums: (R,) CRC-32 of the tokens of each region.
    """
    attributes = _stored({item.name: _typed(str(item.type), getattr(meta, item.name)) for item in fields(meta)})
    found = hashlib.blake2b(json.dumps(attributes, sort_keys=True).encode(), digest_size=16)
    for array in (coords, tissue, np.zeros(0) if present is None else present, checksums):
        found.update(f" {array.shape} ".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def all_finite(tokens: npt.NDArray[np.float16]) -> bool:
    """Whether no number is NaN or infinite. Compares bits, ten times as fast as `np.isfinite`."""
    return bool((tokens.view(np.uint16) & _WITHOUT_SIGN).max(initial=0) < _INFINITY)


def as_tokens(features: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.float16], str]:
    """Convert features to the dtype of tokens.

    Args:
        features: (n, D).

    Returns:
        (n, D); and a description of the problem, which completes "tokens that are"; empty if there is none.
    """
    with np.errstate(over="ignore", under="ignore"):  # values beyond float16 become infinite
        tokens = features.astype(TOKEN_DTYPE, copy=False)
    if not all_finite(tokens):
        return tokens, "NaN, infinite or beyond float16"
    if features.dtype.itemsize > TOKEN_DTYPE.itemsize:
        nonzero = features != 0
        there, lost = nonzero.sum(axis=1), (nonzero & (tokens == 0)).sum(axis=1)
        if ((lost > np.maximum(_LOST_SHARE * there, _LOST)) | ((lost == there) & (lost > 0))).any():
            return tokens, "too small for float16, where they become zero"
    return tokens, ""


def _stored(attributes: dict[str, Any]) -> dict[str, Any]:
    """Leave out what files of this version did not always have, where it is empty."""
    return {name: value for name, value in attributes.items() if name not in {"mask", "stain"} or value}


def _plain(value: Any) -> Any:
    """Convert NumPy scalars and arrays to the Python types of `TokenMeta`."""
    if isinstance(value, np.ndarray):
        return tuple(value.tolist())
    if isinstance(value, np.generic):
        return value.item()
    return value


def _typed(kind: str, value: Any) -> Any:
    """Convert a value to the type of its field; None if it has another type."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "str":
        return value if isinstance(value, str) and _is_unicode(value) else None
    if kind == "int":
        return value if isinstance(value, int) and number else None
    if kind == "float":
        return float(value) if number else None
    numbers = [_typed("float", item) for item in value] if isinstance(value, tuple | list) else [None]
    return None if None in numbers else tuple(numbers)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _out_of_range(values: Mapping[str, Any]) -> list[str]:
    """List the attributes whose values are out of range, with the allowed values."""
    found = [
        f"{name} is {values[name]!r}, allowed: {least:,} to {most:,}"
        for names, least, most in _RANGES
        for name in names
        if not least <= values[name] <= most  # also False for NaN
    ]
    if values["region_px"] < values["patch_px"]:
        found.append(f"region_px is {values['region_px']:,}, less than patch_px, {values['patch_px']:,}")
    if len(values["mean"]) != len(values["std"]) or not all(
        math.isfinite(mean) and 0 < std < math.inf for mean, std in zip(values["mean"], values["std"], strict=False)
    ):
        found.append(f"mean and std are {values['mean']} and {values['std']}")
    if not is_safe_name(values["slide_id"]):
        found.append(f"slide_id is {values['slide_id']!r}, allowed: letters, digits, '.', '_' and '-'")
    found += [
        f"{name} is not a JSON object" for name in ("source", "stain") if _object_in(values.get(name) or "{}") is None
    ]
    return found


def _object_in(text: str) -> dict[str, Any] | None:
    """Return the JSON object that a text contains; None if it contains something else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


_LARGEST = 1 << 20
_RANGES: tuple[tuple[tuple[str, ...], float, float], ...] = (
    (("slide_width_l0", "slide_height_l0", "region_l0"), 1, FURTHEST_L0),
    (("patch_px", "embedding_dim"), 1, _LARGEST),
    (("region_px",), 1, FURTHEST_L0),
    (("encoder_input_px",), 0, _LARGEST),
    (("mpp_l0", "target_mpp", "effective_mpp", "upsampling"), 1e-4, 1e4),
    (("min_tissue",), 0, 1),
)


def _listed(versions: tuple[int, ...]) -> str:
    return " or ".join(map(str, versions))
