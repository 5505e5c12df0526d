"""Settings of stage one."""

from dataclasses import dataclass
from pathlib import Path

from slpd_toolkit.config.checks import require
from slpd_toolkit.core.precision import Precision


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Stage one: slides to a token cache, with a frozen patch encoder.

    slpd embed cohort.csv --out cache/ --encoder hipt --weights vit256_small_dino.pth
    """

    manifest: Path
    """Cohort CSV with `slide_id` and `slide_path` (see manifests/README.md)."""

    out: Path
    """Folder of the token cache: one HDF5 file a slide, failures.csv, qc/."""

    slides_root: Path | None = None
    """Folder that relative slide paths start from. Default: the manifest's folder."""

    # -- Encoder --
    encoder: str = "random"
    """Frozen patch encoder: `hipt`, `timm:<model>`, `handcrafted` (stain and texture statistics), `random` (untrained
    ViT-Tiny) or `random:vit_small`."""

    weights: Path | None = None
    """Weights file of the encoder (.pth, .pt, .safetensors). Loaded strictly and without running code."""

    allow_download: bool = False
    """Let `timm:` encoders fetch weights from their hub. Off: nothing touches the network."""

    # -- Regions and patches --
    mpp: float = 0.5
    """Target resolution in um/px (0.5 is about 20x)."""

    region_px: int = 4096
    """Side of a region in px at the target resolution; a multiple of the patch size."""

    patch_px: int = 256
    """Side of a patch in px at the target resolution."""

    min_tissue: float = 0.1
    """Keep regions whose tissue fraction is at least this (0-1). A slide's best region is kept in any case."""

    max_upsample: float = 1.6
    """Refuse slides that would have to be enlarged by more than this factor to reach the target resolution."""

    allow_missing_pixels: bool = False
    """Embed slides whose file lacks pixels in tissue, or has tiles that do not fit the thumbnail: such patches get no
    token, and the token file says which (`present`). Off: such slides fail."""

    # -- Running --
    batch_size: int = 0
    """Patches a forward pass. 0: 256 on a GPU, 32 on a CPU."""

    precision: Precision = "auto"
    """Arithmetic of the encoder. `auto`: bf16 where the device computes it natively, else fp32."""

    device: str = "auto"
    """`auto` (GPU when there is one), `cpu`, `cuda`, `cuda:1`, `mps`."""

    workers: int = 0
    """Processes that read and decode slides. 0: one per core, at most 16."""

    seed: int = 0
    """Seed of the `random` encoders' weights."""

    shard: str = "1/1"
    """Which part of the manifest to do, `i/n` with 1 <= i <= n: for array jobs."""

    overwrite: bool = False
    """Redo slides that are in the cache already."""

    qc: bool = True
    """Write qc/<slide_id>.jpg (tissue outline, kept regions) and qc/index.html."""

    def __post_init__(self) -> None:
        """Check each value and how they relate, before any work starts."""
        require(0 < self.mpp < float("inf"), "--mpp", self.mpp, "a positive number of um/px", "0.5 is the usual 20x.")
        require(self.patch_px >= 16, "--patch-px", self.patch_px, "at least 16")
        require(
            self.region_px >= self.patch_px and self.region_px % self.patch_px == 0,
            "--region-px",
            self.region_px,
            f"a multiple of --patch-px ({self.patch_px})",
            f"Use {max(1, round(self.region_px / self.patch_px)) * self.patch_px}.",
        )
        require(0 <= self.min_tissue <= 1, "--min-tissue", self.min_tissue, "a fraction from 0 to 1")
        require(1 <= self.max_upsample < float("inf"), "--max-upsample", self.max_upsample, "a factor of at least 1")
        require(self.batch_size >= 0, "--batch-size", self.batch_size, "0 (choose) or more")
        require(self.workers >= 0, "--workers", self.workers, "0 (choose) or more")
        require(
            self.weights is None or not self.encoder.startswith(("random", "handcrafted")),
            "--weights",
            self.weights,
            f"no weights with the encoder `{self.encoder}`, which is not learned",
            "Use --encoder hipt (or timm:<model>) with a weights file.",
        )
        self.shard_of_n  # noqa: B018 - parse it now, so that a typo stops before any work

    @property
    def grid(self) -> int:
        """Patches along one side of a region."""
        return self.region_px // self.patch_px

    @property
    def shard_of_n(self) -> tuple[int, int]:
        """`shard` as (i, n), 1-based."""
        head, _, tail = self.shard.partition("/")
        valid = head.isdecimal() and tail.isdecimal() and 1 <= int(head) <= int(tail)
        require(valid, "--shard", self.shard, "i/n with 1 <= i <= n", "The third of eight jobs is 3/8.")
        return int(head), int(tail)
