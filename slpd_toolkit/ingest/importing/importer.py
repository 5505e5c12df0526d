"""Import of slides one by one: each is read, placed and written; failing ones are recorded, and the others continue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import SlideError
from slpd_toolkit.core.failures import FILENAME, Failure, FailureLog
from slpd_toolkit.core.files import make_folder, remove_leftovers_of
from slpd_toolkit.foreign.consensus import require_member
from slpd_toolkit.foreign.regrid import place
from slpd_toolkit.ingest.importing.report import ImportTally
from slpd_toolkit.ingest.importing.targets import STAGE, require_name
from slpd_toolkit.ingest.importing.token_meta import require_placed_alike, slide_meta
from slpd_toolkit.store import schema
from slpd_toolkit.store.writer import TokenWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.config.import_features import ImportConfig
    from slpd_toolkit.foreign.consensus import Cohort
    from slpd_toolkit.foreign.features import SlideFeatures
    from slpd_toolkit.foreign.regrid import Placement
    from slpd_toolkit.ingest.importing.cohort import FeatureReader
    from slpd_toolkit.ingest.importing.targets import ImportTarget
    from slpd_toolkit.store.schema import TokenMeta


class Importer:
    """Imports slides one by one.

    Args:
        config: Settings.
        reader: Reads the features of a target.
        cohort: Encoder and geometry of all slides; None if no slide could be read.
        shared: Attributes that follow from the cohort.
    """

    def __init__(
        self, config: ImportConfig, reader: FeatureReader, cohort: Cohort | None, shared: TokenMeta | None
    ) -> None:
        self._config, self._reader, self._cohort, self._shared = config, reader, cohort, shared
        make_folder(config.out)
        self.failures = FailureLog(config.out / FILENAME)
        self.tally = ImportTally()

    def fail(self, failure: Failure) -> None:
        """Record a slide that cannot be imported."""
        self.failures.add(failure)
        console.warn(f"{failure.slide_id}: {failure.error} {failure.hint}".rstrip())

    def run(self, targets: Sequence[ImportTarget]) -> None:
        """Import slides; complete ones are skipped, failing ones are recorded, and the others continue."""
        remove_leftovers_of(self._config.out, {f"{target.slide_id}{schema.SUFFIX}" for target in targets})
        with console.progress("import", total=len(targets), unit="slides") as progress:
            for target in targets:
                try:
                    self._import(target)
                except Exception as error:  # noqa: BLE001 - whatever is wrong with one slide must not end the run
                    self.fail(Failure.of(STAGE, target.slide_id, target.source.files[0], error))
                progress.advance(1, f"{self.tally.bytes / 1e6 / self.tally.seconds:.0f} MB/s")

    def _import(self, target: ImportTarget) -> None:
        require_name(target)
        slide = self._reader.read(target)
        assert self._cohort  # this slide is readable, so the cohort is known
        assert self._shared
        require_member(slide, self._cohort)
        config, path = self._config, self._config.out / f"{target.slide_id}{schema.SUFFIX}"
        placement = place(slide, grid=self._cohort.grid, tolerance=config.tolerance, min_tissue=config.min_tissue)
        meta = slide_meta(self._shared, target.slide_id, slide, placement, config.tolerance)
        if path.exists() and not config.overwrite:
            require_placed_alike(path, meta)
            self.tally.skipped += 1
        else:
            present = placement.present
            with TokenWriter(path, meta, placement.coords_l0, present.astype(np.float32), present) as writer:
                self.tally.bytes += write_tokens(writer, slide, placement)
            self.tally.slides += 1
        self.tally.count(slide, placement, meta)


def write_tokens(writer: TokenWriter, slide: SlideFeatures, placement: Placement) -> int:
    """Write the tokens of a slide, region by region.

    Returns:
        Number of bytes of features that were read.

    Raises:
        SlideError: A feature is NaN, infinite or beyond float16.
        CacheError: The file cannot be written.
    """
    count = 0
    for region in range(len(placement)):
        part = slice(placement.starts[region], placement.starts[region + 1])
        rows = placement.source[part]
        features = slide.features.take(rows)
        tokens, problem = schema.as_tokens(features)
        if problem:
            first = next(index for index, row in enumerate(features) if schema.as_tokens(row[None])[1])
            raise SlideError(
                f"{slide.files[0]}: features of row {int(rows[first])} are {problem}.",
                hint="The extraction failed, possibly due to mixed precision: extract the features of this slide "
                "again.",
            )
        writer.put(region, placement.rows[part], placement.columns[part], tokens)
        count += features.nbytes
    return count
