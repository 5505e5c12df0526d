"""How the representation of a bundle is described."""

from __future__ import annotations

import pytest

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
