"""Settings of `slpd predict`."""

from dataclasses import dataclass
from pathlib import Path

from slpd_toolkit.config.checks import require, require_at_least
from slpd_toolkit.core.precision import Precision


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Predict new slides with the heads that `slpd mil-eval` trained.

    slpd predict eval/nsclc new.csv --out predictions/

    slpd predict eval/nsclc --cache cacheC/ --out predictions/
    """

    bundle: Path
    """Folder of `slpd mil-eval`, its model/ folder, or a copy of one of the bundles in it."""

    manifest: Path | None = None
    """Slides to predict: a CSV with `slide_id`, and `slide_path` if they are to be embedded. Default with --cache or
    --vectors: all slides there."""

    out: Path
    """Folder for predictions.csv, heads.csv, scores.h5, pages/, failures.csv, and the tokens of embedded slides. Run
    the same command again to resume."""

    cache: Path | None = None
    """Token cache of the slides. Default: embed the slides of the manifest as the training slides were embedded."""

    vectors: Path | None = None
    """Table of slide vectors (.csv, .npz, .parquet), for bundles that were trained on such a table."""

    # -- Bundle --
    model: str | None = None
    """Model, if the folder has bundles of several."""

    aggregator: str | None = None
    """Aggregator, if the folder has bundles of several."""

    final: bool = False
    """Use the head that was trained on all patients (`slpd mil-eval --final`) instead of the mean over the heads of the
    folds. Its performance was not measured."""

    # -- Embedding --
    weights: Path | None = None
    """Weights file of the patch encoder, if it needs one. Its SHA-256 must be that of the training slides' encoder."""

    slides_root: Path | None = None
    """Base folder of relative slide paths. Default: the manifest's folder."""

    precision: Precision = "auto"
    """Precision of encoder and region ViT. `auto`: that of training."""

    batch_size: int = 0
    """Batch size of the encoder, in patches. 0: 256 on a GPU, 32 on a CPU."""

    # -- Running --
    device: str = "auto"
    """Device of encoder and region ViT: `auto` (GPU if available), `cpu`, `cuda`, `cuda:1`, `mps`."""

    workers: int = 2
    """Number of processes that read slides, and of threads that read tokens ahead."""

    pages: bool = True
    """Write pages/<slide_id>.html, with images if the slide can be read."""

    def __post_init__(self) -> None:
        """Check the values and their combinations."""
        require_at_least(1, "workers", self.workers)
        require_at_least(0, "batch_size", self.batch_size)
        given = [name for name in ("cache", "vectors") if getattr(self, name) is not None]
        require(len(given) < 2, "--cache with --vectors", "both", "only one of them")
        require(
            bool(given) or self.manifest is not None,
            "manifest",
            "nothing",
            "a CSV of slides to embed, or --cache or --vectors",
            "Example: slpd predict eval/nsclc new.csv --out predictions/",
        )
