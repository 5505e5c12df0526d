"""The configuration that comes with the weights of a timm model (`config.json`), as the transform that it describes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slpd_toolkit.core.errors import WeightsError
from slpd_toolkit.core.files import read_json
from slpd_toolkit.encoders.preset import Transform

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_CONFIG = "pretrained_cfg"


def read_transform(path: Path) -> Transform:
    """Read mean, standard deviation, input size, crop and interpolation from a model's `config.json`.

    Raises:
        WeightsError: The file is missing, unreadable, or lacks one of mean, standard deviation and input size.
    """
    try:
        config = read_json(path)
        return transform_of(config.get(_CONFIG, config))
    except FileNotFoundError as error:
        raise WeightsError(
            f"{path} is missing: only it states how this encoder normalizes.",
            hint="Download config.json from the model's page into the folder of the weights.",
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path} does not state mean, std and input_size of the model ({type(error).__name__}: {error}).",
            hint="Download config.json from the model's page again.",
        ) from error


def transform_of(config: Mapping[str, Any]) -> Transform:
    """Return the transform of a timm configuration (`mean`, `std`, `input_size`, `crop_pct`, `interpolation`).

    timm resizes to `input_size / crop_pct`, rounded down, and crops the center.
    """
    red, green, blue = map(float, config["mean"])
    red_std, green_std, blue_std = map(float, config["std"])
    side = int(config["input_size"][-1])
    return Transform(
        input_px=side,
        resize_px=int(side / float(config.get("crop_pct") or 1.0)),
        interpolation="bilinear" if config.get("interpolation") == "bilinear" else "bicubic",
        mean=(red, green, blue),
        std=(red_std, green_std, blue_std),
    )
