"""`slpd export`: a trained region ViT as other tools read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit import console
from slpd_toolkit.errors import UsageError
from slpd_toolkit.models.region_vit import RegionViT, RegionViTConfig
from slpd_toolkit.models.weights import write_checkpoint, write_safetensors
from slpd_toolkit.training.trainer import REGION_VIT

if TYPE_CHECKING:
    from slpd_toolkit.config.export import ExportConfig

_SUFFIX = {"hipt": ".pth", "safetensors": ".safetensors"}


def run(config: ExportConfig) -> int:
    """Write the weights; gives 0.

    Raises:
        UsageError: The output's name has another suffix, or its folder does not exist.
        WeightsError: The source holds no region ViT.
    """
    suffix = _SUFFIX[config.to]
    if config.out.suffix != suffix or not config.out.parent.is_dir():
        raise UsageError(f"--out: got {config.out}, allowed: a {suffix} file in a folder that exists.")
    source = config.source / REGION_VIT if config.source.is_dir() else config.source
    model = RegionViT.from_file(source)
    if config.to == "hipt":
        # HIPT's loader takes the key "teacher" and strips "module." and "backbone.".
        teacher = {f"backbone.{name}": tensor for name, tensor in model.state_dict().items()}
        write_checkpoint({"teacher": teacher}, config.out)
        if model.config != RegionViTConfig():
            console.warn(f"{source} is not of HIPT's shape: its loader needs the arguments {model.config}.")
    else:
        write_safetensors(model.state_dict(), model.config_dict(), config.out)
    console.note(f"Wrote {config.out}.")
    return 0
