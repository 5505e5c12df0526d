"""What two cohorts share, also where one is the other under new names."""

from __future__ import annotations

import dataclasses

import numpy as np

from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.external.identities import find_shared_identities
from slpd_toolkit.mil.statistics.results import Representation
from slpd_toolkit.report.external_section import compared, findings

VECTORS = np.random.default_rng(0).normal(size=(120, 32)).astype(np.float32)


def part(vectors: np.ndarray, prefix: str) -> tuple[Representation, Cohort]:
    slides = np.array([f"{prefix}{number:03}" for number in range(len(vectors))])
    bags = Bags.pack({slide: vector[None] for slide, vector in zip(slides.tolist(), vectors, strict=True)})
    return Representation("m", "m", bags), Cohort(slides, slides)


def test_a_cohort_that_was_embedded_again_under_other_names_is_found() -> None:
    noise = np.random.default_rng(1).normal(size=(60, 32)).astype(np.float32)
    again = find_shared_identities(*part(VECTORS[:60], "a"), *part(VECTORS[:60] + 1e-3 * noise, "b"))
    assert not again.slides
    assert not again.equal_embeddings
    assert len(again.near_copies) == 60
    assert {each.partition(" ")[0] for each in again.near_copies} == {f"external:b{number:03}," for number in range(60)}
    other = find_shared_identities(*part(VECTORS[:60], "a"), *part(VECTORS[60:], "b"))
    assert other.clean
    assert other.near_copies_compared
    assert compared(other).endswith("near-copies. Not compared: slides used in pretraining (unknown).")


def test_what_pretraining_saw_is_found_and_what_is_not_compared_is_named() -> None:
    representation, cohort = part(VECTORS[:16], "a")
    seen = dataclasses.replace(representation, pretrained=frozenset({"b002", "elsewhere"}), pretraining_known=True)
    found = find_shared_identities(seen, cohort, *part(VECTORS[60:65], "b"))
    assert (found.pretrained_slides, found.clean) == (("b002",), False)
    assert findings(found) == ["1 external slide was used in pretraining: b002."]
    assert not found.near_copies_compared  # the last part has a single slide: 17 in all
    assert compared(found).endswith("slides used in pretraining. Not compared: near-copies (too few slides).")
