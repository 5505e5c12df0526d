"""`slpd import`: arrange patch features of another tool into regions by their coordinates, and write a token cache.

    folder -> slides of one format -> features and coordinates -> cells of regions -> one token file per slide

The features of a region are read when the region is written, so that memory holds the coordinates of one slide and
the features of one region.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.folder_lock import locks_folder
from slpd_toolkit.core.text import count
from slpd_toolkit.foreign import format as formats
from slpd_toolkit.foreign.detect import find
from slpd_toolkit.ingest.importing.cohort import FeatureReader
from slpd_toolkit.ingest.importing.importer import Importer
from slpd_toolkit.ingest.importing.report import print_summary, write_report
from slpd_toolkit.ingest.importing.targets import choose_targets
from slpd_toolkit.ingest.importing.token_meta import cohort_meta
from slpd_toolkit.store.token_file import require_same_run

if TYPE_CHECKING:
    from slpd_toolkit.config.import_features import ImportConfig


@locks_folder("import")
def run(config: ImportConfig) -> int:
    """Import a folder of features into the cache `config.out`.

    Returns:
        0, or 1 if some slides failed.

    Raises:
        UsageError: The folder, manifest or settings are invalid, the files lack information that must be passed as a
            setting, the cache was made with another encoder or geometry, or another process writes to it.
    """
    tool, sources = find(config.source, None if config.tool == "auto" else config.tool)
    source_format = formats.load(tool)
    if config.source.resolve() == config.out.resolve():
        raise UsageError("--out is the folder of the features.", hint="Choose another folder for the cache.")
    console.note(f"{config.source}: {count(len(sources), 'slide')} of {tool}")
    if config.coords and not source_format.READS_COORDS:
        console.warn(f"--coords is not used: files of {tool} contain their coordinates.")
    targets, problems = choose_targets(sources, config.manifest)
    targets = targets[: config.limit or None]
    reader = FeatureReader(config, source_format)
    cohort = reader.choose_cohort(targets)
    shared = cohort_meta(cohort, config, tool) if cohort else None
    if shared:
        require_same_run(config.out, shared, {target.slide_id for target in targets} if config.overwrite else ())
    importer = Importer(config, reader, cohort, shared)
    for problem in problems:
        importer.fail(problem)
    try:
        importer.run(targets)
    finally:
        write_report(config.out, importer.tally.rows)
    print_summary(importer.tally, importer.failures, config.out)
    return 1 if importer.failures.rows else 0
