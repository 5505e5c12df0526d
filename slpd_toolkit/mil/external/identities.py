"""Audit of two cohorts: patients, slides and embeddings that are in both, and slides that pretraining saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.cohort.audit import find_shared_vectors
from slpd_toolkit.mil.cohort.near_copies import FEWEST_SLIDES, find_near_copies
from slpd_toolkit.mil.external.results import SharedIdentities

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.mil.arrays import IntArray
    from slpd_toolkit.mil.cohort.patients import Cohort
    from slpd_toolkit.mil.statistics.results import Representation

_PARTS = 4
_INTERNAL, _EXTERNAL = "internal:", "external:"


def find_shared_identities(
    internal: Representation, cohort: Cohort, external: Representation, other: Cohort
) -> SharedIdentities:
    """Compare two cohorts in one representation.

    Args:
        internal: Bags of the training cohort, and the slides that pretraining saw.
        cohort: The training cohort.
        external: Bags of the external cohort.
        other: The external cohort.
    """
    both = _together(internal.bags, external.bags)
    equal: dict[str, int] = {}
    for shared in find_shared_vectors(both):
        if _is_mixed(shared.slides):
            for slide in shared.slides:
                if slide.startswith(_EXTERNAL):
                    equal[slide.removeprefix(_EXTERNAL)] = equal.get(slide.removeprefix(_EXTERNAL), 0) + shared.count
    return SharedIdentities(
        tuple(sorted(set(cohort.slides.tolist()) & set(other.slides.tolist()))),
        tuple(sorted(set(cohort.patients.tolist()) & set(other.patients.tolist()))),
        tuple(sorted(equal.items())),
        _near_copies(internal.bags, external.bags),
        tuple(sorted(internal.pretrained & set(other.slides.tolist()))),
        internal.pretraining_known,
        near_copies_compared=len(internal.bags.slides) + min(map(len, _parts(internal.bags, external.bags)))
        >= FEWEST_SLIDES,
    )


def _near_copies(internal: Bags, external: Bags) -> tuple[str, ...]:
    """Describe near-copies across cohorts.

    External slides are compared in parts of a quarter of the internal ones, because copies can only be recognized if
    most slides have none, and the external cohort may be a copy of the whole internal one.
    """
    found = list[str]()
    for rows in _parts(internal, external):
        copies = find_near_copies(_together(internal, external.subset(rows)))
        found += [each.description for each in copies if _is_mixed(each.slides)]
    return tuple(found)


def _parts(internal: Bags, external: Bags) -> list[IntArray]:
    size = max(len(internal.slides) // _PARTS, 1)
    return [np.arange(start, min(start + size, len(external.slides))) for start in range(0, len(external.slides), size)]


def _together(one: Bags, other: Bags) -> Bags:
    slides = (*(f"{_INTERNAL}{slide}" for slide in one.slides), *(f"{_EXTERNAL}{slide}" for slide in other.slides))
    offsets = np.concatenate([one.offsets, one.offsets[-1] + other.offsets[1:]])
    return Bags(slides, np.concatenate([one.features, other.features]), offsets)


def _is_mixed(slides: Sequence[str]) -> bool:
    return len({slide.partition(":")[0] for slide in slides}) > 1
