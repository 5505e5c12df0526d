"""`slpd import`: patch features that another tool extracted, placed by their coordinates into a token cache.

    folder -> slides of one tool -> features and coordinates -> cells of regions -> one token file a slide

A region's features are fetched when it is written, so memory holds one region, and one slide's coordinates.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slpd_toolkit.config.recipe import as_recipe
from slpd_toolkit.core import console
from slpd_toolkit.core.errors import CacheError, SlideError, UsageError
from slpd_toolkit.core.failures import FILENAME, Failure, FailureLog
from slpd_toolkit.core.files import fingerprint, is_safe_name, make_folder, remove_leftovers, write_csv
from slpd_toolkit.core.manifest import read_table
from slpd_toolkit.core.units import MPP_RANGE, is_plausible_mpp
from slpd_toolkit.core.version import __version__
from slpd_toolkit.foreign.consensus import choose_cohort, require_member
from slpd_toolkit.foreign.detect import Found, find, read_slide
from slpd_toolkit.foreign.features import MissingSettingError, Settings, is_a_name
from slpd_toolkit.foreign.regrid import place
from slpd_toolkit.store import schema
from slpd_toolkit.store.schema import TokenMeta
from slpd_toolkit.store.token_file import TokenFile, require_same, require_same_run, token_paths
from slpd_toolkit.store.writer import TokenWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from slpd_toolkit.config.import_features import ImportConfig
    from slpd_toolkit.foreign.consensus import Cohort
    from slpd_toolkit.foreign.features import SlideFeatures, Tool
    from slpd_toolkit.foreign.regrid import Placement

STAGE = "import"
REPORT = "imported.csv"
_COLUMNS = (
    "slide_id",
    "regions",
    "patches",
    "placed",
    "sparse",
    "collisions",
    "off_lattice",
    "between",
    "augmented",
    "shift_median_um",
    "shift_max_um",
    "mpp_l0",
    "effective_mpp",
    "notes",
    "files",
)
_VOTERS = 9
_UNKNOWN = "unknown"


@dataclass
class Tally:
    """What the run has done so far."""

    slides: int = 0
    skipped: int = 0
    regions: int = 0
    patches: int = 0
    placed: int = 0
    bytes: int = 0
    largest_shift: float = 0.0
    """Patch sides."""
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What `REPORT` says of each slide."""
    notes: dict[str, int] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)


def run(config: ImportConfig) -> int:
    """Import a folder of features into the cache `config.out`.

    Returns:
        0, or 1 if some slides failed.

    Raises:
        UsageError: The folder, the manifest or the settings are wrong, the files do not say something that the user
            must, or the cache holds another encoder or geometry.
    """
    tool, found = find(config.source, None if config.tool == "auto" else config.tool)
    if config.source.resolve() == config.out.resolve():
        raise UsageError("--out is the folder of the features itself.", hint="Choose another folder for the cache.")
    console.note(f"{config.source}: {len(found):,} slides of {tool}")
    if config.coords and tool in {"trident", "stamp"}:
        console.warn(f"--coords is not used: files of {tool} hold their coordinates themselves.")
    wanted, problems = _of_manifest(config.manifest, found) if config.manifest else (_unnamed(found), [])
    wanted = wanted[: config.limit or None]
    stage = ImportStage(config, tool, wanted)
    for problem in problems:
        stage.fail(problem)
    stage.import_slides(wanted)
    stage.print_summary()
    return 1 if stage.failures.rows else 0


@dataclass(frozen=True)
class Wanted:
    """A slide to import: its files, under the name that it has in the cache."""

    slide_id: str
    found: Found
    mpp_l0: float | None = None


class ImportStage:
    """One run of the import: its settings, what all slides must share, and the loop over slides.

    Args:
        config: Settings.
        tool: Whose files they are.
        slides: What to import; some of them are read to choose what all must share.

    Raises:
        UsageError: A setting is missing or cannot be met, or the cache holds another encoder or geometry; nothing was
            written.
    """

    def __init__(self, config: ImportConfig, tool: Tool, slides: Sequence[Wanted]) -> None:
        self._config, self._tool = config, tool
        self._recipe = json.dumps(as_recipe(config), sort_keys=True)
        self._voters: dict[str, SlideFeatures] = {}
        self._cohort = self._choose_cohort(slides)
        if self._cohort:
            redone = {slide.slide_id for slide in slides} if config.overwrite else set[str]()
            require_same_run(config.out, self._cohort_meta(self._cohort), redone)
        make_folder(config.out)
        self.failures = FailureLog(config.out / FILENAME)
        self._tally = Tally()

    def fail(self, failure: Failure) -> None:
        """Record a slide that cannot be imported."""
        self.failures.add(failure)
        console.warn(f"{failure.slide_id}: {failure.error} {failure.hint}".rstrip())

    def import_slides(self, slides: Sequence[Wanted]) -> None:
        """Import slides; complete ones are skipped, failing ones are recorded, and the others go on."""
        try:
            with console.progress("import", total=len(slides), unit="slides") as progress:
                for slide in slides:
                    try:
                        self._import(slide)
                    except Exception as error:  # noqa: BLE001 - whatever is wrong with one slide must not end the run
                        self.fail(Failure.of(STAGE, slide.slide_id, slide.found.files[0], error))
                    rate = self._tally.bytes / 1e6 / (time.monotonic() - self._tally.started)
                    progress.advance(1, f"{rate:.0f} MB/s")
        finally:
            write_report(self._config.out, self._tally.rows)

    def _import(self, wanted: Wanted) -> None:
        _require_name(wanted)
        slide = self._voters.pop(wanted.slide_id, None) or self._read(wanted)
        assert self._cohort  # this slide could be read, so at least one of those that chose it could
        require_member(slide, self._cohort)
        config, path = self._config, self._config.out / f"{wanted.slide_id}{schema.SUFFIX}"
        placement = place(slide, grid=self._cohort.grid, tolerance=config.tolerance, min_tissue=config.min_tissue)
        meta = self._meta(wanted.slide_id, slide, placement, self._cohort)
        remove_leftovers(path)
        if path.exists() and not config.overwrite:
            _require_placed_alike(path, meta)
            self._tally.skipped += 1
        else:
            present = placement.present
            with TokenWriter(path, meta, placement.coords_l0, present.astype(np.float32), present) as writer:
                self._tally.bytes += write_tokens(writer, slide, placement)
            self._tally.slides += 1
        self._count(slide, placement, meta)

    def _count(self, slide: SlideFeatures, placement: Placement, meta: TokenMeta) -> None:
        tally, report = self._tally, placement.report
        tally.regions += len(placement)
        tally.patches += report.patches
        tally.placed += report.placed
        tally.largest_shift = max(tally.largest_shift, report.shift_max_l0 / slide.patch_l0)
        for note in slide.notes:
            tally.notes[note] = tally.notes.get(note, 0) + 1
        tally.rows[meta.slide_id] = _row(meta, len(placement))

    def _read(self, wanted: Wanted) -> SlideFeatures:
        config = self._config
        settings = Settings(
            coords=config.coords,
            encoder=config.encoder_name,
            mpp=config.mpp,
            mpp_l0=wanted.mpp_l0,
            target_mpp=config.target_mpp,
            region_px=config.region_px or None,
        )
        return read_slide(wanted.found, self._tool, settings)

    def _choose_cohort(self, slides: Sequence[Wanted]) -> Cohort | None:
        """Read some slides, spread over the folder, and take what most of them are; None if none can be read."""
        read = self._voters
        missing: list[MissingSettingError] = []
        voters = sorted({round(index) for index in np.linspace(0, len(slides) - 1, _VOTERS)}) if slides else []
        rest = [index for index in range(len(slides)) if index not in voters]
        for index in [*voters, *rest]:
            if index in rest and read:
                break
            try:
                read[slides[index].slide_id] = self._read(slides[index])
            except MissingSettingError as error:
                missing.append(error)
            except Exception:  # noqa: BLE001, S112 - it will fail in its turn, and say so
                continue
        if missing and not read:
            raise UsageError(missing[0].message, hint=missing[0].hint)
        return choose_cohort(list(read.values()), self._config.region_px) if read else None

    def _cohort_meta(self, cohort: Cohort) -> TokenMeta:
        """Attributes that all slides share; what only the encoder's own run could tell is said to be unknown."""
        return TokenMeta(
            slide_id="",
            slide_width_l0=0,
            slide_height_l0=0,
            slide_fingerprint="",
            mpp_l0=cohort.target_mpp,
            target_mpp=cohort.target_mpp,
            effective_mpp=cohort.target_mpp,
            upsampling=1.0,
            patch_px=cohort.patch_px,
            region_px=cohort.region_px,
            region_l0=cohort.region_px,
            min_tissue=self._config.min_tissue,
            encoder=cohort.encoder,
            encoder_sha256=f"{_UNKNOWN}, features from {self._tool}",
            encoder_input_px=0,
            embedding_dim=cohort.embedding_dim,
            mean=(),
            std=(),
            precision=_UNKNOWN,
            toolkit_version=__version__,
            recipe=self._recipe,
        )

    def _meta(self, slide_id: str, slide: SlideFeatures, placement: Placement, cohort: Cohort) -> TokenMeta:
        extent_l0 = placement.coords_l0.max(axis=0) + placement.region_l0
        notes = slide.notes
        if slide.size_l0 is None:
            notes = (*notes, "the slide's size is not known: taken to end where its last region does")
        source = {
            "tool": slide.tool,
            "files": [str(path.resolve()) for path in slide.files[:2]],
            "file_count": len(slide.files),
            "located": slide.located,
            **asdict(placement.report),
            "tolerance": self._config.tolerance,
            "notes": notes,
        }
        width_l0, height_l0 = slide.size_l0 or extent_l0.tolist()
        return replace(
            self._cohort_meta(cohort),
            slide_id=slide_id,
            slide_width_l0=width_l0,
            slide_height_l0=height_l0,
            slide_fingerprint=_fingerprint(slide.files),
            mpp_l0=slide.mpp_l0,
            effective_mpp=slide.effective_mpp,
            upsampling=max(1.0, slide.patch_px / slide.patch_l0),
            region_l0=placement.region_l0,
            source=json.dumps(source, sort_keys=True),
        )

    def print_summary(self) -> None:
        """Print what was done, how many patches found no place, and where that is listed."""
        tally, seconds, out = self._tally, time.monotonic() - self._tally.started, self._config.out
        left_out = tally.patches - tally.placed
        console.facts(
            f"Token cache {out}",
            {
                "slides": f"{tally.slides:,} imported, {tally.skipped:,} there already, {len(self.failures):,} failed",
                "regions": tally.regions,
                "patches": f"{tally.patches:,}: {tally.placed:,} found a place, {left_out:,} did not",
                "moved": f"by at most {tally.largest_shift:.2f} patch sides onto the grid",
                "time": f"{console.human_seconds(seconds)}, {tally.bytes / 1e6 / seconds:.0f} MB of features a second",
            },
        )
        if left_out:
            reasons = {name: sum(int(row[name]) for row in tally.rows.values()) for name in _REASONS}
            said = ", ".join(f"{count:,} {_REASONS[name]}" for name, count in reasons.items() if count)
            console.note(f"Left out: {said}. {out / REPORT} has each slide's numbers.")
        for note, slides in tally.notes.items():
            console.warn(f"{note} ({slides:,} slides).")
        if self.failures.rows:
            console.warn(f"{len(self.failures.rows)} slides failed: {self.failures.path} says why and what to do.")


_PLACEMENT = ("tool", "tolerance", "patches", "placed")
_REASONS = {
    "sparse": "in regions with too few patches (--min-tissue)",
    "collisions": "whose place a nearer patch has",
    "off_lattice": "too far from any place (--tolerance)",
    "between": "that overlap those taken",
    "augmented": "augmented copies",
}


def write_tokens(writer: TokenWriter, slide: SlideFeatures, placement: Placement) -> int:
    """Write a slide's tokens, region by region.

    Returns:
        Bytes of features that were read.

    Raises:
        SlideError: A feature is NaN, infinite or beyond float16.
        CacheError: The disk refuses.
    """
    count = 0
    for region in range(len(placement)):
        part = slice(placement.starts[region], placement.starts[region + 1])
        rows = placement.source[part]
        features = slide.features.take(rows)
        with np.errstate(over="ignore"):  # what is beyond float16 becomes infinite
            tokens = features.astype(schema.TOKEN_DTYPE, copy=False)
        if not schema.all_finite(tokens):
            first = int(rows[np.isfinite(tokens).all(axis=1).argmin()])
            raise SlideError(
                f"{slide.files[0]}: features of row {first} are NaN, infinite or beyond float16.",
                hint="The extraction went wrong (mixed precision?): extract this slide's features again.",
            )
        writer.put(region, placement.rows[part], placement.columns[part], tokens)
        count += features.nbytes
    return count


def write_report(out: Path, done: Mapping[str, Mapping[str, Any]]) -> None:
    """List all slides of a cache that were imported: what earlier runs did is read from their token files.

    Args:
        out: The cache.
        done: Slide id -> its row, of this run.
    """
    rows = dict(done)
    for path in token_paths(out):
        if path.stem in rows:
            continue
        with suppress(CacheError, LookupError, TypeError, ValueError):  # no token file, or its source is none of ours
            found = TokenFile.open(path)
            if found.meta.source:
                rows[path.stem] = _row(found.meta, len(found))
    write_csv(out / REPORT, _COLUMNS, [rows[slide_id] for slide_id in sorted(rows)])


def _row(meta: TokenMeta, regions: int) -> dict[str, Any]:
    """What `REPORT` says of a slide, from what its token file says of where it comes from."""
    source = json.loads(meta.source)
    first, more = source["files"][0], source.get("file_count", len(source["files"])) - 1
    return {
        "slide_id": meta.slide_id,
        "regions": regions,
        **{name: source[name] for name in ("patches", "placed", *_REASONS)},
        "shift_median_um": round(source["shift_median_l0"] * meta.mpp_l0, 3),
        "shift_max_um": round(source["shift_max_l0"] * meta.mpp_l0, 3),
        "mpp_l0": round(meta.mpp_l0, 6),
        "effective_mpp": round(meta.effective_mpp, 6),
        "notes": "; ".join(source["notes"]),
        "files": f"{first} and {more} more" if more else first,
    }


def _fingerprint(files: Sequence[Path]) -> str:
    """Tell what a slide was made of from another state of it; a slide may be thousands of files."""
    each = [fingerprint(path) for path in files]
    return each[0] if len(each) == 1 else f"{len(each)}-files-{sha256('+'.join(each).encode()).hexdigest()[:16]}"


def _require_placed_alike(path: Path, meta: TokenMeta) -> None:
    """Check that a finished token file is what this run would write.

    Raises:
        CacheError: It is unreadable, or differs; the message names in what.
    """
    require_same(path, meta)
    stored = TokenFile.open(path).meta.source
    there, here = (json.loads(source) if source else {} for source in (stored, meta.source))
    differing = [name for name in _PLACEMENT if there.get(name) != here[name]]
    if differing:
        said = ", ".join(f"{name}: {there.get(name)!r} there, {here[name]!r} here" for name in differing)
        raise CacheError(f"{path} is there already, but {said}.", hint="--overwrite redoes it.")


def _require_name(wanted: Wanted) -> None:
    if not is_safe_name(wanted.slide_id) or not is_a_name(wanted.slide_id):
        raise SlideError(
            f"the slide would be called {wanted.slide_id!r}, allowed: letters, digits, '.', '_', '-', not starting "
            "with '.', and no word for nothing.",
            hint="Rename the file, or name the slide in a --manifest whose slide_path has the file's name.",
        )


def _unnamed(found: Iterable[Found]) -> list[Wanted]:
    return [Wanted(item.slide_id, item) for item in found]


def _of_manifest(manifest: Path, found: Sequence[Found]) -> tuple[list[Wanted], list[Failure]]:
    """Choose a manifest's slides, each by its slide_id or by its slide file's name; and those that cannot be had."""
    by_name = {item.slide_id: item for item in found}
    wanted, problems = [], []
    taken: dict[Path, str] = {}
    for row in read_table(manifest).to_dict("records"):
        slide_id, mpp = row["slide_id"], row.get("mpp", "")
        item = by_name.get(slide_id) or by_name.get(Path(row["slide_path"]).stem)
        if item is None:
            hint = "Extract them, or take the row out of the manifest."
            problems.append(Failure(STAGE, slide_id, row["slide_path"], "there are no features of this slide.", hint))
        elif item.files[0] in taken:
            error = f"{item.files[0]} is {taken[item.files[0]]} of the manifest already."
            hint = "Two slides cannot have the same features: name each file's slide once."
            problems.append(Failure(STAGE, slide_id, str(manifest), error, hint))
        elif mpp and not _is_mpp(mpp):
            error, hint = f"mpp is {mpp!r}.", f"Allowed: {MPP_RANGE[0]} to {MPP_RANGE[1]} um/px, or empty."
            problems.append(Failure(STAGE, slide_id, str(manifest), error, hint))
        else:
            taken[item.files[0]] = slide_id
            wanted.append(Wanted(slide_id, item, float(mpp) if mpp else None))
    return sorted(wanted, key=lambda item: item.slide_id), problems


def _is_mpp(text: str) -> bool:
    try:
        return is_plausible_mpp(float(text))
    except ValueError:
        return False
