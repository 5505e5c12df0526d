"""How the representation of a bundle is described."""

from __future__ import annotations

import pytest

from slpd_toolkit.core.failures import Failure
from slpd_toolkit.ingest.embedding.as_bundled import fixed_settings
from slpd_toolkit.mil.bundle.origin import Origin
from slpd_toolkit.representations.bundled import short_source


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
