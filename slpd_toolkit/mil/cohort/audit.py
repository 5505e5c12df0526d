"""Does a split leak? Patients on two sides, test slides that pretraining saw, embeddings that stand on two sides."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import listed

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from slpd_toolkit.mil.bags import Bags
    from slpd_toolkit.mil.cohort.near_copies import NearCopies
    from slpd_toolkit.mil.cohort.splits import Split


@dataclass(frozen=True)
class SharedVectors:
    """Slides that hold bit-identical region embeddings: one slide under two names, or regions without any tissue."""

    slides: tuple[str, ...]
    """The slides that all hold them, sorted."""
    count: int
    """How many different embeddings exactly these slides share."""


@dataclass(frozen=True)
class SplitAudit:
    """What leaks in one split. All empty: nothing found."""

    repeat: int
    fold: int
    shared_patients: Mapping[tuple[str, str], tuple[str, ...]]
    """Patients with slides in both of two parts, for each pair of parts that shares any."""
    pretrained_slides: tuple[str, ...]
    """Test slides that the pretraining saw."""
    pretrained_patients: tuple[str, ...]
    """Patients whose test slides the pretraining did not see, but another slide of theirs."""
    shared_vectors: tuple[SharedVectors, ...]
    """Identical embeddings held by slides of different parts."""
    near_copies: tuple[NearCopies, ...] = ()
    """Slides of different parts that are closer than any two different slides of the cohort."""

    @property
    def clean(self) -> bool:
        """Whether nothing leaks."""
        return not (
            self.shared_patients
            or self.pretrained_slides
            or self.pretrained_patients
            or self.shared_vectors
            or self.near_copies
        )

    @property
    def findings(self) -> list[str]:
        """One sentence a finding, with its number and the first names."""
        lines = [
            f"{len(patients)} patients are in {first} and in {second}: {listed(patients)}."
            for (first, second), patients in self.shared_patients.items()
        ]
        if self.pretrained_slides:
            lines.append(
                f"{len(self.pretrained_slides)} test slides were pretrained on: {listed(self.pretrained_slides)}."
            )
        if self.pretrained_patients:
            names = listed(self.pretrained_patients)
            lines.append(f"Of {len(self.pretrained_patients)} test patients other slides were pretrained on: {names}.")
        lines += [
            f"{shared.count} identical embeddings are in different parts, in the slides {listed(shared.slides)}."
            for shared in self.shared_vectors
        ]
        lines += [f"Near-copies are in different parts: {copies.description}." for copies in self.near_copies]
        return lines


def audit_split(
    split: Split,
    patient_of: Mapping[str, str],
    *,
    pretrained: Collection[str] = (),
    shared_vectors: Sequence[SharedVectors] = (),
    near_copies: Sequence[NearCopies] = (),
) -> SplitAudit:
    """Look for leaks in one split.

    Args:
        split: The split, from wherever.
        patient_of: Patient of every slide of the split, and of any other slide that is known (pretraining's, say).
        pretrained: Slide ids that the pretraining of the representation saw.
        shared_vectors: From `find_shared_vectors`, on all slides.
        near_copies: From `near_copies.find_near_copies`, on all slides.

    Raises:
        UsageError: A slide of the split has no patient.
    """
    unknown = [slide for part in split.parts.values() for slide in part if slide not in patient_of]
    if unknown:
        raise UsageError(
            f"{len(unknown)} slides of the split have no patient: {listed(unknown)}.", hint="Add them to the table."
        )
    patients = {name: {patient_of[slide] for slide in part} for name, part in split.parts.items()}
    shared = {pair: tuple(sorted(patients[pair[0]] & patients[pair[1]])) for pair in combinations(patients, 2)}
    seen_slides = tuple(sorted(set(split.test) & set(pretrained)))
    seen_patients = {patient_of[slide] for slide in pretrained if slide in patient_of}
    part_of = {slide: name for name, part in split.parts.items() for slide in part}

    def in_two_parts(slides: Sequence[str]) -> bool:
        return len({part_of[slide] for slide in slides if slide in part_of}) > 1

    return SplitAudit(
        split.repeat,
        split.fold,
        {pair: names for pair, names in shared.items() if names},
        seen_slides,
        tuple(sorted((patients["test"] & seen_patients) - {patient_of[slide] for slide in seen_slides})),
        tuple(each for each in shared_vectors if in_two_parts(each.slides)),
        tuple(each for each in near_copies if in_two_parts(each.slides)),
    )


def find_shared_vectors(bags: Bags) -> list[SharedVectors]:
    """Find region embeddings that stand, bit for bit, in more than one slide, the most shared ones first.

    Vectors are compared by 128-bit digests: linear in their number, where comparing pairs is quadratic.
    """
    owners: defaultdict[bytes, set[str]] = defaultdict(set)
    for slide, start, stop in zip(bags.slides, bags.offsets[:-1], bags.offsets[1:], strict=True):
        for vector in bags.features[start:stop]:
            owners[hashlib.blake2b(vector, digest_size=16).digest()].add(slide)
    groups = Counter(tuple(sorted(slides)) for slides in owners.values() if len(slides) > 1)
    return [
        SharedVectors(slides, count) for slides, count in sorted(groups.items(), key=lambda item: (-item[1], item[0]))
    ]


def audit_splits(
    bags: Bags,
    splits: Sequence[Split],
    patient_of: Mapping[str, str],
    pretrained: Collection[str],
    copies: Sequence[NearCopies],
) -> tuple[SplitAudit, ...]:
    """Audit every split for one representation; see `audit_split`."""
    shared = find_shared_vectors(bags)
    return tuple(
        audit_split(split, patient_of, pretrained=pretrained, shared_vectors=shared, near_copies=copies)
        for split in splits
    )
