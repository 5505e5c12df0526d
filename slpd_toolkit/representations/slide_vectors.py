"""Descriptors of slides or patients as a table: what `slpd represent` writes and `slpd search` reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import count
from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.descriptors.descriptor import describe_bags

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import numpy.typing as npt

    from slpd_toolkit.mil.descriptors.descriptor import ChosenDescriptor

Per = Literal["slide", "patient"]


@dataclass(frozen=True, eq=False)
class SlideVectors:
    """One vector, or one set of weighted vectors, per slide or patient.

    >>> vectors = slpd.represent("runs/slpd", cache="cache", as_="prototypes", clusters=2, out="slides.parquet")
    >>> vectors
    SlideVectors(12 slides, prototypes of 24 features)
    >>> vectors["slide000"].shape
    (2, 24)
    """

    bags: Bags
    """The vectors by slide or patient. One vector each, unless the descriptor is a set."""
    per: Per
    """Whether `bags.slides` are slides or patients."""
    descriptor: str
    """Name of the descriptor; empty for vectors of other tools."""
    fitted_on: tuple[str, ...] = ()
    """Slides that the descriptor was fitted on; empty if nothing was fitted."""
    parameters: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    """What was fitted, by name."""
    provenance: Mapping[str, str | int | float] = field(default_factory=dict)
    """Model, encoder and geometry of the regions."""
    failures: tuple[str, ...] = ()
    """Slides that were left out because their token files are damaged; not stored."""

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> SlideVectors:
        """Read a .parquet file or a folder of `slpd represent`.

        Raises:
            UsageError: It is neither, or is damaged.
        """
        from slpd_toolkit.representations.vector_files import read_vectors_back

        return read_vectors_back(Path(path))

    def __len__(self) -> int:
        return len(self.bags.slides)

    def __repr__(self) -> str:
        what = self.descriptor or "vectors"
        return f"SlideVectors({len(self):,} {self.per}s, {what} of {self.bags.width:,} features)"

    def __getitem__(self, name: str) -> npt.NDArray[np.float32]:
        """Return the (k, E) vectors of a slide or patient.

        Raises:
            KeyError: It has none.
        """
        try:
            row = self.bags.slides.index(name)
        except ValueError:
            raise KeyError(name) from None
        return self.bags.features[self.bags.offsets[row] : self.bags.offsets[row + 1]]

    @property
    def is_set(self) -> bool:
        """Whether some slide or patient has several vectors."""
        return bool((self.bags.sizes > 1).any()) or self.descriptor == "prototypes"

    @property
    def weights(self) -> npt.NDArray[np.float32]:
        """(M,) weight of each vector within its slide or patient."""
        if self.bags.weights is not None:
            return self.bags.weights
        return np.repeat(1 / self.bags.sizes, self.bags.sizes).astype(np.float32)

    @property
    def about(self) -> pd.DataFrame:
        """One row per vector with slide_id or patient_id; for sets also prototype and weight."""
        about: dict[str, npt.NDArray[np.generic]] = {
            f"{self.per}_id": np.repeat(np.array(self.bags.slides, object), self.bags.sizes)
        }
        if self.is_set:
            starts = np.repeat(self.bags.offsets[:-1], self.bags.sizes)
            about |= {"prototype": np.arange(len(starts)) - starts, "weight": self.weights}
        return pd.DataFrame(about)


def pool_patients(bags: Bags, patient_of: Mapping[str, str]) -> Bags:
    """Join the regions of each patient's slides; patients are in the order of their first slide.

    Appended values are averaged over the regions.

    Raises:
        UsageError: A slide has no patient.
    """
    unknown = [slide for slide in bags.slides if slide not in patient_of]
    if unknown:
        raise UsageError(
            f"{count(len(unknown), 'slide has', 'slides have')} no patient, such as {unknown[0]}.",
            hint="Add them to the manifest.",
        )
    patients = [patient_of[slide] for slide in bags.slides]
    names = list(dict.fromkeys(patients))
    number = {name: index for index, name in enumerate(names)}
    of_row = np.repeat([number[patient] for patient in patients], bags.sizes)
    order = np.argsort(of_row, kind="stable")
    counts = np.bincount(of_row, minlength=len(names))
    appended = None
    if bags.appended is not None:
        total = np.zeros((len(names), bags.appended.shape[1]))
        np.add.at(total, [number[patient] for patient in patients], bags.appended * bags.sizes[:, None].astype(float))
        appended = (total / counts[:, None]).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Bags(tuple(names), bags.features[order], offsets, appended=appended)


def describe_slides(
    regions: Bags,
    chosen: ChosenDescriptor,
    fit_on: npt.NDArray[np.int64],
    described: npt.NDArray[np.int64],
    *,
    patient_of: Mapping[str, str] | None = None,
    seed: int = 0,
    provenance: Mapping[str, str | int | float],
) -> SlideVectors:
    """Fit a descriptor on some slides and describe others with it.

    Args:
        regions: Region embeddings of both.
        chosen: The descriptor.
        fit_on: Positions of the slides to fit on.
        described: Positions of the slides to describe.
        patient_of: Patient of each slide, to describe patients instead of slides.
        seed: Random seed of fitted descriptors.
        provenance: Origin of the region embeddings.
    """
    fitted = chosen.fit(regions, fit_on, seed)
    wanted = regions.subset(described)
    if patient_of is not None:
        wanted = pool_patients(wanted, patient_of)
    descriptor = chosen.load()
    about: dict[str, str | int | float] = {**provenance, "descriptor": chosen.label}
    if chosen.clusters or descriptor.clusters:
        about["clusters"] = chosen.clusters or descriptor.clusters
    if descriptor.is_fitted:
        about["seed"] = seed
    return SlideVectors(
        describe_bags(fitted, wanted),
        "slide" if patient_of is None else "patient",
        chosen.label,
        tuple(regions.slides[index] for index in fit_on) if descriptor.is_fitted else (),
        fitted.parameters,
        about,
    )
