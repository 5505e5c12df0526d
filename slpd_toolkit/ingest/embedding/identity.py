"""The identity of a cache, shared by all its token files: encoder, geometry and settings."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from slpd_toolkit.config.recipe import as_recipe
from slpd_toolkit.core.version import __version__
from slpd_toolkit.encoders.stain import stain_of_view
from slpd_toolkit.slides.regions import Lattice
from slpd_toolkit.store.schema import TokenMeta
from slpd_toolkit.store.stain_folders import stain_folder
from slpd_toolkit.store.token_file import require_same_run

if TYPE_CHECKING:
    from slpd_toolkit.config.embed import EmbedConfig
    from slpd_toolkit.core.precision import Precision
    from slpd_toolkit.encoders.encoder import Encoder
    from slpd_toolkit.encoders.geometry import Geometry
    from slpd_toolkit.encoders.stain import StainChange


@dataclass(frozen=True)
class CacheIdentity:
    """Attributes of the token files of a run, except those of the slide."""

    config: EmbedConfig
    geometry: Geometry
    encoder: Encoder
    precision: Precision
    view: int = 0
    """Number of the stain view; 0: patches as they are."""

    @property
    def views(self) -> list[CacheIdentity]:
        """The caches of the run: this one, and one per stain view."""
        plain = replace(self.config, stain_views=0)  # so that a cache is the same with and without views
        folders = [stain_folder(self.config.out, view) for view in range(1, self.config.stain_views + 1)]
        of_views = [
            replace(self, config=replace(plain, out=folder, qc=False), view=view)
            for view, folder in enumerate(folders, start=1)
        ]
        return [replace(self, config=plain), *of_views]

    def stain(self, slide_id: str) -> StainChange | None:
        """Return the change of stain of a slide; None for patches as they are."""
        return stain_of_view(self.view, slide_id, self.config.seed) if self.view else None

    def meta(self, slide_id: str, lattice: Lattice, slide_fingerprint: str, mask: str = "") -> TokenMeta:
        """Return the attributes of the token file of a slide."""
        return TokenMeta(
            slide_id=slide_id,
            slide_width_l0=lattice.width_l0,
            slide_height_l0=lattice.height_l0,
            slide_fingerprint=slide_fingerprint,
            mpp_l0=lattice.mpp_l0,
            target_mpp=lattice.target_mpp,
            effective_mpp=lattice.effective_mpp,
            upsampling=lattice.upsampling,
            patch_px=lattice.patch_px,
            region_px=lattice.region_px,
            region_l0=lattice.region_l0,
            min_tissue=self.config.selection.min_tissue,
            encoder=self.encoder.name,
            encoder_sha256=self.encoder.weights_sha256,
            encoder_input_px=self.encoder.input_px,
            embedding_dim=self.encoder.embedding_dim,
            mean=self.encoder.mean,
            std=self.encoder.std,
            precision=self.precision,
            toolkit_version=__version__,
            recipe=json.dumps(as_recipe(replace(self.config, **asdict(self.geometry))), sort_keys=True),
            mask=mask,
            stain=self._described_stain(slide_id),
        )

    def _described_stain(self, slide_id: str) -> str:
        change = self.stain(slide_id)
        about = {"view": self.view, "seed": self.config.seed, "matrix": change.matrix} if change else {}
        return json.dumps(about) if about else ""

    def require_same_cache(self, slide_ids: set[str]) -> None:
        """Check that the run does not mix encoders or geometries in one cache, before any work starts.

        Args:
            slide_ids: All slides of the manifest, whose files `--overwrite` replaces in this or another array job.

        Raises:
            UsageError: The cache has another encoder or geometry.
        """
        config, geometry = self.config, self.geometry
        lattice = Lattice(0, 0, 1.0, geometry.mpp, geometry.patch_px, geometry.region_px, 1, 1)
        require_same_run(config.out, self.meta("", lattice, ""), slide_ids if config.overwrite else ())
