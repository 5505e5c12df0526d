"""Feature files as other tools write them, made here from their layouts alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import torch

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    Array = npt.NDArray[Any]

TRIDENT: dict[str, object] = {
    "patch_size": 256,
    "patch_size_level0": 512,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 0,
    "level0_width": 100_000,
    "level0_height": 80_000,
    "name": "None",
    "savetodir": "/somewhere",
}
"""Attributes of the coordinates; TRIDENT writes the word "None" where it knows nothing."""


def lattice_of(columns: int, rows: int, step: float = 512, origin: tuple[float, float] = (0, 0)) -> Array:
    """(columns * rows, 2) coordinates, row-major."""
    y, x = np.indices((rows, columns))
    corners: Array = np.stack([x.ravel(), y.ravel()], axis=1) * step + np.array(origin)
    return corners


def features_of(patches: int, width: int = 8, seed: int = 0, dtype: str = "f4") -> Array:
    values = np.random.default_rng(seed).standard_normal((patches, width))
    return values.astype(np.float16).astype(dtype)


def shuffled(*arrays: Array, seed: int = 3) -> list[Array]:
    order = np.random.default_rng(seed).permutation(len(arrays[0]))
    return [array[order] for array in arrays]


def write_trident(path: Path, features: Array, coords: Array, *, chunked: bool = True, **attributes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in {"features": features, "coords": coords.astype(np.int64)}.items():
            chunks = {"chunks": (1, *array.shape[1:]), "maxshape": (None, *array.shape[1:])} if chunked else {}
            file.create_dataset(name, data=array, **chunks)
        file["coords"].attrs.update(TRIDENT | attributes)
    return path


def write_clam(
    folder: Path,
    slide_id: str,
    features: Array,
    coords: Array,
    *,
    downsample: tuple[float, float] = (1.0, 1.0),
    patch_size: int = 256,
    level_dim: tuple[int, int] = (90_000, 90_000),
) -> Path:
    """`feat/h5_files/<slide>.h5` and `results/patches/<slide>.h5`; gives the folder of the features."""
    for place in ("feat/h5_files", "results/patches"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    coords = coords.astype(np.int32)
    with h5py.File(folder / "feat/h5_files" / f"{slide_id}.h5", "w") as file:
        half = len(features) // 2
        for name, array in {"features": features.astype(np.float32), "coords": coords}.items():
            data = file.create_dataset(
                name, data=array[:half], chunks=(1, array.shape[1]), maxshape=(None, array.shape[1])
            )
            data.resize(len(array), axis=0)  # batches are appended
            data[half:] = array[half:]
    with h5py.File(folder / "results/patches" / f"{slide_id}.h5", "w") as file:
        data = file.create_dataset("coords", data=coords, chunks=(1, 2), maxshape=(None, 2))
        data.attrs["patch_size"] = patch_size
        data.attrs["patch_level"] = 0 if downsample == (1.0, 1.0) else 1
        data.attrs["downsample"] = downsample
        data.attrs["level_dim"] = level_dim
        data.attrs["name"] = slide_id
    return folder / "feat/h5_files"


def write_stamp(path: Path, features: Array, coords: Array, **attributes: object) -> Path:
    """Coordinates in um; without attributes, px of the tiles."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["coords"] = coords.astype(np.float32)
        file["feats"] = features.astype(np.float16)
        file.attrs["extractor"] = "uni-0123abcd"
        file.attrs.update(attributes)
    return path


def write_slide2vec(
    run: Path,
    slide_id: str,
    features: Array,
    corners: Array,
    *,
    suffix: str = ".pt",
    meta: dict[str, object] | None = None,
    about: dict[str, object] | None = None,
) -> Path:
    """(R, T, D) features and (R, 2) level-0 corners; gives the folder of the features."""
    folder, tiles = run / "hierarchical_embeddings", run / "tiles"
    folder.mkdir(parents=True, exist_ok=True)
    tiles.mkdir(exist_ok=True)
    if suffix == ".pt":
        torch.save(torch.from_numpy(features), folder / f"{slide_id}.pt")
    else:
        np.savez_compressed(folder / f"{slide_id}.npz", features=features)
    side = int(features.shape[1] ** 0.5)
    written: dict[str, object] = {
        "sample_id": slide_id,
        "artifact_type": "hierarchical_embeddings",
        "num_regions": len(features),
        "tiles_per_region": features.shape[1],
        "encoder_name": "virchow2",
        "requested_tile_size_px": 256,
        "requested_region_size_px": 256 * side,
        "requested_spacing_um": 0.5,
        "subtile_order": "row_major",
    }
    (folder / f"{slide_id}.meta.json").write_text(json.dumps(written if meta is None else meta))
    np.savez_compressed(
        tiles / f"{slide_id}.coordinates.npz",
        tile_index=np.arange(len(corners), dtype=np.int32),
        x=corners[:, 0].astype(np.int64),
        y=corners[:, 1].astype(np.int64),
        tissue_fractions=np.ones(len(corners), np.float32),
    )
    if about is not None:
        (tiles / f"{slide_id}.coordinates.meta.json").write_text(json.dumps(about))
    return folder


def flat(tokens: Array, coords: Array, region_l0: int) -> tuple[Array, Array]:
    """Take a cache's regions, (R, n, n, D) and (R, 2), apart: (R * n * n, D) features and their level-0 corners."""
    regions, grid = tokens.shape[:2]
    within = lattice_of(grid, grid, region_l0 / grid)
    places = (coords[:, None] + within[None]).reshape(-1, 2)
    return tokens.reshape(regions * grid * grid, -1), places


def write_atlas_patch(path: Path, coords: Array, features: dict[str, Array], **attributes: Any) -> Path:
    """`<output>/patches/<stem>.h5`, with features of several encoders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    read = np.tile(np.array([512, 512, 0]), (len(coords), 1))
    about = {name: value for name, value in TRIDENT.items() if name not in {"name", "savetodir"}}
    with h5py.File(path, "w") as file:
        file.create_dataset("coords", data=np.concatenate([coords, read], axis=1).astype(np.int32))
        file.create_dataset("passports", data=np.array([b"p"] * len(coords), "S160"))
        for name, values in features.items():
            file.create_dataset(f"features/{name}", data=values.astype(np.float32))
        file.attrs.update({**about, "passport_version": 2, "num_patches": len(coords), **attributes})
    return path
