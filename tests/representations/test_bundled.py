"""How the representation of a bundle is described."""

from __future__ import annotations

import pytest

from slpd_toolkit.config.embed import EmbedConfig
from slpd_toolkit.config.settings import settings_of
from slpd_toolkit.core.failures import Failure
from slpd_toolkit.ingest.embedding.as_bundled import fixed_settings
from slpd_toolkit.mil.bundle.origin import Origin
from slpd_toolkit.representations.bundled import MASK_KEYS, RECIPE_KEYS, short_source


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("/home/anna/runs/slpd/region_vit.pt", "slpd/region_vit.pt"),
        ("/home/anna/vectors.npz", "vectors.npz"),
        ("mean-tokens", "mean-tokens"),
    ],
)
def test_the_source_of_a_bundle_has_no_folders_of_the_machine(source: str, shown: str) -> None:
    assert short_source(source) == shown


def test_settings_that_a_failure_suggests_to_change_are_named_if_the_bundle_fixes_them() -> None:
    origin = Origin("mean-tokens", "m", "", 3, recipe={"mpp": 0.5, "max_upsample": 1.6, "min_tissue": 0.1})
    coarse = Failure("embed", "s", "s.svs", "It has 3 um/px.", "Choose --mpp 1.9 or coarser, or raise --max-upsample.")
    assert fixed_settings(origin, [coarse]) == ["--mpp", "--max-upsample"]
    assert fixed_settings(origin, [Failure("embed", "s", "s.svs", "no such file", "Use --slides-root.")]) == []


def test_every_setting_of_embed_is_either_in_bundles_or_does_not_change_tokens() -> None:
    """A setting that bundles forget would have its default on new slides: decide for each new one."""
    of_the_run = {"manifest", "out", "slides_root", "shard", "overwrite", "qc", "stain_views", "tissue_only"}
    of_the_machine = {"batch_size", "precision", "device", "cluster", "workers", "stage_to", "stage_gib"}
    weights = {"weights", "allow_download"}  # which weights are right is decided by their digest
    kept = {*RECIPE_KEYS, *MASK_KEYS}
    assert not kept & {*of_the_run, *of_the_machine, *weights}
    assert set(settings_of(EmbedConfig)) == {*kept, *of_the_run, *of_the_machine, *weights}
