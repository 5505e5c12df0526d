"""Leakage audit of splits: patients, pretraining slides and identical embeddings in more than one part."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import agree, count, listed

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from slpd_toolkit.mil.bags import Bags
    from slpd_toolkit.mil.cohort.near_copies import NearCopies
    from slpd_toolkit.mil.cohort.splits import Split


@dataclass(frozen=True)
class SharedVectors:
    """Slides with bit-identical region embeddings: duplicates of a slide, or regions without tissue."""

    slides: tuple[str, ...]
    """The slides that share them, sorted."""
    count: int
    """Number of distinct embeddings shared by exactly these slides."""


@dataclass(frozen=True)
class SplitAudit:
    """Leakage found in one split; all fields are empty if there is none."""

    repeat: int
    fold: int
    shared_patients: Mapping[tuple[str, str], tuple[str, ...]]
    """Patients with slides in both parts, for each pair of parts that has any."""
    pretrained_slides: tuple[str, ...]
    """Test slides used in pretraining."""
    pretrained_patients: tuple[str, ...]
    """Patients whose test slides were not used in pretraining, but another of their slides was."""
    shared_vectors: tuple[SharedVectors, ...]
    """Identical embeddings shared by slides of different parts."""
    near_copies: tuple[NearCopies, ...] = ()
    """Slides of different parts that are closer than any two different slides of the cohort."""

    @property
    def clean(self) -> bool:
        """Whether no leaks were found."""
        return not (
            self.shared_patients
            or self.pretrained_slides
            or self.pretrained_patients
            or self.shared_vectors
            or self.near_copies
        )

    @property
    def findings(self) -> list[str]:
        """One sentence per finding, with a count and the first names."""
        lines = [
            f"{count(len(patients), 'patient is', 'patients are')} in both {first} and {second}: {listed(patients)}."
            for (first, second), patients in self.shared_patients.items()
        ]
        if self.pretrained_slides:
            lines.append(
                f"{count(len(self.pretrained_slides), 'test slide was', 'test slides were')} used in pretraining: "
                f"{listed(self.pretrained_slides)}."
            )
        if self.pretrained_patients:
            names = listed(self.pretrained_patients)
            lines.append(
                f"Other slides of {count(len(self.pretrained_patients), 'test patient')} were used in pretraining: "
                f"{names}."
            )
        lines += [
            f"{count(shared.count, 'identical embedding')} {agree(shared.count, 'occurs', 'occur')} in different "
            f"parts, in the slides {listed(shared.slides)}."
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
    """Check one split for leakage.

    Args:
        split: The split, from any source.
        patient_of: Patient of every slide in the split, and of other known slides (such as those of pretraining).
        pretrained: IDs of the slides used to pretrain the representation.
        shared_vectors: Result of `find_shared_vectors` for all slides.
        near_copies: Result of `near_copies.find_near_copies` for all slides.

    Raises:
        UsageError: A slide in the split has no patient.
    """
    unknown = [slide for part in split.parts.values() for slide in part if slide not in patient_of]
    if unknown:
        raise UsageError(
            f"{count(len(unknown), 'slide')} in the split {agree(len(unknown), 'has', 'have')} no patient: "
            f"{listed(unknown)}.",
            hint="Add them to the table.",
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
    """Find bit-identical region embeddings that occur in more than one slide, most frequent first.

    Vectors are compared by 128-bit digests, which takes linear instead of quadratic time.
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
