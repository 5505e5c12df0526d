"""Settings of stage one."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

from slpd_toolkit.config.checks import flag, require, require_cluster
from slpd_toolkit.config.region_selection import RegionSelectionConfig
from slpd_toolkit.core.precision import Precision

_WEIGHTS = (".bin", ".pth", ".pt", ".ckpt", ".safetensors")


MOST_VIEWS = 16
"""Maximum number of stain views."""


@dataclass(frozen=True)
class EncoderChoice:
    """An encoder as given on the command line: a name, and perhaps its weights file."""

    name: str
    weights: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Split `NAME=FILE`; other `=` belong to the name (`timm:vit_base?img_size=224`)."""
        name, _, file = text.rpartition("=")
        if name and (file.lower().endswith(_WEIGHTS) or Path(file).is_file()):
            return cls(name, Path(file))
        return cls(text)


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Stage one: embed slides with a frozen patch encoder and write a token cache.

    slpd embed cohort.csv --out cache/ --encoder uni2-h --weights pytorch_model.bin
    """

    manifest: Path
    """Cohort CSV with `slide_id` and `slide_path` (see manifests/README.md)."""

    out: Path
    """Folder of the token cache: one HDF5 file per slide, failures.csv, qc/."""

    slides_root: Path | None = None
    """Base folder of relative slide paths. Default: the manifest's folder."""

    # -- Encoder --
    encoder: tuple[str, ...] = ("efficientnet-lite0",)
    """Frozen patch encoder by name, such as `uni2-h`, `virchow2` or `hipt`; `slpd encoders` lists all of them with what
    to download. Others: `timm:<model>`. The default needs no download, but was trained on natural images. Repeat the
    option to read slides once for several encoders, each with its weights file: `uni2-h=w1.bin`; each then has its own
    cache, `OUT/NAME`."""

    weights: Path | None = None
    """Weights file of the encoder (.bin, .pth, .pt, .safetensors), as downloaded from the model's page. Loaded strictly
    and without executing code."""

    allow_download: bool = False
    """Allow `timm:` encoders to download weights from their hub. Off: no network access."""

    mean: str = ""
    """Only for `timm:<architecture>` with a local file, which does not state it: mean of RGB in 0-1, as
    `0.485,0.456,0.406` or by name (`imagenet`, `half`, `clip`)."""

    std: str = ""
    """Only for `timm:<architecture>` with a local file: standard deviation of RGB in 0-1, like --mean."""

    pooling: str = ""
    """Only for `timm:<architecture>` with a local file: how patches are pooled, `cls` (CLS token), `mean` (of patch
    tokens), `cls+mean` (concatenated) or `model` (the model's own)."""

    # -- Regions and patches --
    mpp: float | None = None
    """Target resolution in um/px (0.5 is about 20x). Default: that of the encoder, mostly 0.5."""

    region_px: int | None = None
    """Side of a region in px at the target resolution; a multiple of the patch size. Default: 16 patches."""

    patch_px: int | None = None
    """Side of a patch in px at the target resolution. Default: that of the encoder, mostly 224 or 256."""

    selection: RegionSelectionConfig = field(default_factory=RegionSelectionConfig)

    # -- Stain views --
    stain_views: int = 0
    """Number of stain views. Each patch is also encoded under that many random changes of stain, one per slide and
    view: its optical density is separated into hematoxylin and eosin, which are scaled and recolored. Pixels are read
    once. View k is a token cache of the same size, `OUT/stain-views/k`; each view takes as much time as the original
    encoding. For `slpd pretrain --stain-views`."""

    # -- Masks --
    mask_mode: Literal["only", "and", "not"] = "only"
    """How masks of the manifest's column `mask_path` are used (GeoJSON, or a label image): `only`: the marked area
    replaces the detected tissue; `and`: detected tissue inside the marked area; `not`: detected tissue outside it."""

    mask_classes: str = ""
    """Classes of the masks to use, as `Tumor,Stroma`; numbers for label images. Default: all."""

    mask_crop: bool = True
    """Read GeoJSON relative to OpenSlide's bounds, as QuPath writes it (MRXS, SCN, sparse slides). `--no-mask-crop`:
    coordinates of the whole slide, as TRIDENT writes them."""

    tissue_only: bool = False
    """Write masks/<slide_id>.png and qc/, but no tokens; no encoder is needed."""

    # -- Running --
    batch_size: int = 0
    """Batch size of the encoder, in patches. 0: 256 on a GPU, 32 on a CPU."""

    precision: Precision = "auto"
    """Precision of the encoder. `auto`: bf16 if the device supports it natively, otherwise fp32."""

    device: str = "auto"
    """Devices of the encoder: `auto` (all GPUs, else the CPU), `cpu`, `cuda`, `mps`, or a list: `cuda:0,cuda:2`. Each
    has a process that takes the next slide when it is ready."""

    cluster: str = ""
    """Ray cluster to use instead of `--device`: `auto` (the cluster that this machine belongs to) or
    `ray://HOST:10001`. Slides are distributed one at a time to its GPUs, or to its nodes if it has no GPUs (requires
    the ray extra)."""

    workers: int = 0
    """Number of processes that read and decode slides, shared by all devices. 0: one per core, at most 16."""

    stage_to: Path | None = None
    """Folder on a fast local disk, to which slides are copied ahead of reading; copies are removed when a slide is
    done, and when the run ends."""

    stage_gib: float = 0.0
    """Maximum total size of the copies, in GiB. Slides that do not fit are read from their original location. 0: half
    of the free space on that disk."""

    seed: int = 0
    """Random seed of stain views, and of the weights of `random` encoders."""

    shard: str = "1/1"
    """Part of the manifest to process, `i/n` with 1 <= i <= n, for array jobs."""

    overwrite: bool = False
    """Embed slides again even if they are in the cache."""

    qc: bool = True
    """Write qc/<slide_id>.jpg (tissue outline, kept regions) and qc/index.html."""

    def __post_init__(self) -> None:
        """Check each value and how they relate, before any work starts."""
        self._check_encoders()
        mpp, patch_px, region_px = self.mpp, self.patch_px, self.region_px
        positive_mpp = mpp is None or 0 < mpp < float("inf")
        require(positive_mpp, "--mpp", mpp, "a positive number of um/px", "0.5 is the usual 20x.")
        require(patch_px is None or patch_px >= 16, "--patch-px", patch_px, "at least 16")
        require(region_px is None or region_px > 0, "--region-px", region_px, "a positive number of px")
        if patch_px is not None and region_px is not None:
            require_whole_patches(region_px, patch_px)
        require(0 <= self.stain_views <= MOST_VIEWS, "--stain-views", self.stain_views, f"0 to {MOST_VIEWS}")
        require(self.batch_size >= 0, "--batch-size", self.batch_size, "0 (automatic) or more")
        require(0 <= self.stage_gib < float("inf"), "--stage-gib", self.stage_gib, "0 (automatic) or more")
        require_cluster(self.cluster)
        require(self.workers >= 0, "--workers", self.workers, "0 (automatic) or more")
        self.shard_of_n  # noqa: B018 - parse it now, so that a typo stops before any work

    def _check_encoders(self) -> None:
        require(bool(self.encoder), "--encoder", "none", "at least one")
        names = [folder for folder, _ in self.caches]
        twice = sorted({name for name in names if names.count(name) > 1})
        require(
            not twice,
            "--encoder",
            ", ".join(twice),
            "each encoder once",
            "Run the command once per weights file, each with its own --out.",
        )
        several = len(self.encoder) > 1
        for name, value in {
            "weights": self.weights,
            "mean": self.mean,
            "std": self.std,
            "pooling": self.pooling,
        }.items():
            require(
                not (several and value),
                flag(name),
                value,
                "only with one --encoder",
                "Use --encoder NAME=FILE for each.",
            )
        require(
            several or not (self.weights and self.caches[0][1].weights),
            "--weights",
            self.weights,
            "one weights file",
            "Leave out --weights, or the file in --encoder.",
        )

    @property
    def caches(self) -> list[tuple[str, EncoderChoice]]:
        """The encoders, each with the name of its folder in `out` where there are several."""
        chosen = [EncoderChoice.parse(text) for text in self.encoder]
        return [(re.sub(r"[^A-Za-z0-9._-]+", "-", each.name).strip("-."), each) for each in chosen]

    def for_each_encoder(self) -> list[Self]:
        """Return the settings of the runs that each encoder alone would have."""
        several = len(self.encoder) > 1
        return [
            replace(
                self,
                encoder=(choice.name,),
                weights=choice.weights or self.weights,
                out=self.out / folder if several else self.out,
            )
            for folder, choice in self.caches
        ]

    @property
    def encoder_name(self) -> str:
        """The name of the only encoder."""
        (name,) = self.encoder
        return EncoderChoice.parse(name).name

    @property
    def shard_of_n(self) -> tuple[int, int]:
        """`shard` as (i, n), 1-based."""
        head, _, tail = self.shard.partition("/")
        valid = head.isdecimal() and tail.isdecimal() and 1 <= int(head) <= int(tail)
        require(valid, "--shard", self.shard, "i/n with 1 <= i <= n", "The third of eight jobs is 3/8.")
        return int(head), int(tail)


def require_whole_patches(region_px: int, patch_px: int) -> None:
    """Check that a region consists of whole patches.

    Raises:
        UsageError: It does not.
    """
    require(
        region_px >= patch_px and region_px % patch_px == 0,
        "--region-px",
        region_px,
        f"a multiple of the patch size ({patch_px} px)",
        f"Use {max(1, round(region_px / patch_px)) * patch_px}.",
    )
