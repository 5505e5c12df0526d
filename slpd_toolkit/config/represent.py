"""Settings of `slpd represent`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slpd_toolkit.config.checks import require, require_at_least, require_manifest
from slpd_toolkit.config.choices import chosen_from
from slpd_toolkit.config.mil_eval import DESCRIPTORS
from slpd_toolkit.core.precision import Precision

SUFFIXES = (".parquet", ".h5ad", "")
"""Suffixes of `out`; none for a folder of HDF5 files."""


@dataclass(frozen=True, kw_only=True)
class RepresentConfig:
    """Write one vector, or one set of weighted prototypes, per slide or per patient.

    slpd represent runs/nsclc --cache cache/ --as prototypes --out slides.parquet

    slpd represent runs/nsclc --cache cache/ --as mixture --per patient --manifest cohort.csv --fit-where split=train
    --out patients.h5ad
    """

    model: str
    """Model that embeds the regions: run folder of `slpd pretrain`, region_vit.pt, HIPT checkpoint or `mean-tokens`."""

    cache: Path
    """Token cache of `slpd embed` or `slpd import`."""

    out: Path
    """Output: a .parquet or .h5ad (AnnData) file, or without suffix a folder with one HDF5 file per slide or patient in
    the layout of TRIDENT's slide features."""

    as_: str = chosen_from(DESCRIPTORS, default="mean")
    """Descriptor of a slide or patient. If it has parameters, they are fitted on all slides, or on those of
    --fit-where."""

    clusters: int = 0
    """Number of prototypes, for descriptors with prototypes. 0: 4 for `prototypes`, 16 for the others."""

    append_mean_token: bool = False
    """Append the slide's mean token (the mean over the tissue patches of all its regions). It restores information that
    `--centering slide` and `--whitening` remove from the tokens of a region ViT. Not for sets (`prototypes`)."""

    per: Literal["slide", "patient"] = "slide"
    """One descriptor per slide, or per patient over all regions of the patient's slides."""

    manifest: Path | None = None
    """Cohort CSV. With it, only the slides that it lists are represented; `patient_id` is the patient of each slide.
    Without it, --per patient reads the manifest that the cache was embedded from, if that still exists."""

    where: tuple[str, ...] = ()
    """Use only manifest rows that meet this condition: `split=train`, `site=A2,BH` (any of these) or
    `split!=test`. Repeat the option to require several conditions."""

    fit_where: tuple[str, ...] = ()
    """Rows of the manifest to fit the descriptor on, like --where. Default: the slides that are represented. If the
    vectors are evaluated on some patients, fit on others."""

    precision: Precision = "auto"
    """Precision of the model. `auto`: bf16 if the device supports it natively, otherwise fp32."""

    device: str = "auto"
    """Device of the model: `auto` (GPU if available), `cpu`, `cuda`, `mps`."""

    workers: int = 2
    """Number of threads that read tokens ahead of the model."""

    seed: int = 0
    """Random seed of fitted descriptors."""

    def __post_init__(self) -> None:
        """Check the values and their combinations."""
        DESCRIPTORS.require(self.as_, "--as")
        require_manifest(self.where, self.manifest)
        require_manifest(self.fit_where, self.manifest, "--fit-where")
        require_at_least(1, "workers", self.workers)
        require_at_least(0, "clusters", self.clusters)
        require(0 <= self.seed < 2**32, "--seed", self.seed, "0 to 4294967295")
        require(
            self.out.suffix in SUFFIXES,
            "--out",
            self.out,
            "a .parquet or .h5ad file, or a folder without suffix",
            "The suffix chooses the format.",
        )
