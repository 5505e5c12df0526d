"""`slpd embed`: embed slides with a frozen patch encoder and write a token cache.

manifest -> usable rows of this shard -> encoder -> slides through the pipeline -> contact sheet, summary
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from slpd_toolkit.core import compute, console
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.failures import FILENAME, Failure, FailureLog
from slpd_toolkit.core.files import make_folder, remove_leftovers_of
from slpd_toolkit.core.folder_lock import locks_folder, working_in
from slpd_toolkit.core.manifest import check_masks, check_rows, read_table, summarise
from slpd_toolkit.core.text import count
from slpd_toolkit.encoders.geometry import preferred_precision, resolve_geometry
from slpd_toolkit.encoders.registry import make_encoder
from slpd_toolkit.ingest.embedding.encoder_of import encoder_of
from slpd_toolkit.ingest.embedding.hardware import chosen_hardware
from slpd_toolkit.ingest.embedding.identity import CacheIdentity
from slpd_toolkit.ingest.embedding.lane import QC_FOLDER, STAGE, Lane
from slpd_toolkit.ingest.embedding.tally import print_summary
from slpd_toolkit.ingest.embedding.tissue_only import write_masks
from slpd_toolkit.report.qc import CONTACT_SHEET, MASKS_FOLDER, draw_overlay, write_contact_sheet, write_mask
from slpd_toolkit.store import schema

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from slpd_toolkit.config.embed import EmbedConfig
    from slpd_toolkit.core.manifest import Problem, SlideEntry
    from slpd_toolkit.core.precision import Precision
    from slpd_toolkit.encoders.encoder import Encoder
    from slpd_toolkit.encoders.geometry import Geometry
    from slpd_toolkit.ingest.embedding.hardware import Hardware
    from slpd_toolkit.slides.plan import SlidePlan


@locks_folder("embed", part=lambda config: config.shard_of_n)
def run(config: EmbedConfig) -> int:
    """Embed the slides of a manifest, or a shard of them, into the cache `config.out`.

    Returns:
        0, or 1 if some slides failed.

    Raises:
        UsageError: The manifest, encoder or settings are invalid, the cache was made with another encoder or geometry,
            or another process writes to it.
        WeightsError: The weights do not fit the encoder.
    """
    runs = config.for_each_encoder()
    geometries = [_resolve_geometry(each) for each in runs]
    table = read_table(config.manifest)
    entries, problems = check_rows(table, config.slides_root or config.manifest.parent)
    if "mask_path" in table:
        entries, more = check_masks(entries, needed=config.mask_mode != "not")
        problems += more
    _warn_about_problems(config, entries, problems)
    index, count = config.shard_of_n
    mine = set(table.index[index - 1 :: count])
    if config.tissue_only:
        return _only_tissue(
            config,
            geometries[0],
            [entry for entry in entries if entry.row in mine],
            [problem for problem in problems if problem.row in mine],
        )
    with ExitStack() as held:
        hardware = held.enter_context(chosen_hardware(config, _draw))
        identities = [
            _identify(each, geometry, hardware, {entry.slide_id for entry in entries})
            for each, geometry in zip(runs, geometries, strict=True)
        ]
        for each in runs if len(runs) > 1 else []:
            held.enter_context(working_in(each.out, "embed", config.shard_of_n))
        if config.stain_views:
            console.note(
                f"{config.stain_views} stain views: each needs as much time and disk space as the tokens, and is "
                "written to stain-views/ in the cache folder."
            )
        identities = [view for identity in identities for view in identity.views]
        logs = [
            _start_log(identity.config, [problem for problem in problems if problem.row in mine])
            for identity in identities
        ]
        lanes = [Lane(identity, hardware.device, log) for identity, log in zip(identities, logs, strict=True)]
        own = [entry for entry in entries if entry.row in mine]
        for lane in lanes:
            _remove_leftovers(lane.identity.config, own)
        with compute.explain_out_of_memory("Lower --batch-size; finished slides are kept."):
            hardware.embed(lanes, own)
        for lane in lanes:
            _remove_leftovers(lane.identity.config, own)
        return max(_finish(lane, log) for lane, log in zip(lanes, logs, strict=True))


def _resolve_geometry(config: EmbedConfig) -> Geometry:
    geometry, remarks = resolve_geometry(config)
    for remark in remarks:
        console.warn(remark)
    return geometry


def _identify(config: EmbedConfig, geometry: Geometry, hardware: Hardware, slide_ids: set[str]) -> CacheIdentity:
    """Make the encoder of a cache, and check that the cache is of this encoder and geometry.

    Raises:
        UsageError: It is not.
    """
    wanted = preferred_precision(config.encoder_name, config.precision, hardware.target)
    precision = hardware.resolve_precision(wanted)
    identity = CacheIdentity(config, geometry, _make_encoder(config, geometry, hardware, precision), precision)
    for view in identity.views:
        if view.config.out.exists():
            view.require_same_cache(slide_ids)
    return identity


def _finish(lane: Lane, failures: FailureLog) -> int:
    """Write the contact sheet of a cache, print its summary, and return the exit code."""
    config = lane.identity.config
    if config.qc:
        write_contact_sheet(config.out, config.out / QC_FOLDER, failures.rows)
    sheet = config.out / QC_FOLDER / CONTACT_SHEET if config.qc else None
    print_summary(lane.tally, failures, config.out, sheet)
    return 1 if failures.rows else 0


def _only_tissue(config: EmbedConfig, geometry: Geometry, entries: list[SlideEntry], problems: list[Problem]) -> int:
    """Write masks and images, and return the exit code."""
    failures = _start_log(config, problems)
    _remove_leftovers(config, entries)
    drawn = write_masks(entries, config, geometry, failures, _draw)
    write_contact_sheet(config.out, config.out / QC_FOLDER, failures.rows)
    console.note(f"Wrote the masks of {count(drawn, 'slide')} to {config.out / MASKS_FOLDER}.")
    if failures.rows:
        console.warn(f"{count(len(failures.rows), 'slide')} failed: {failures.path} lists the reasons and what to do.")
    console.note(
        f"Check {config.out / QC_FOLDER / CONTACT_SHEET}: does the outline match the tissue that you would mark?"
    )
    return 1 if failures.rows else 0


def _remove_leftovers(config: EmbedConfig, entries: Sequence[SlideEntry]) -> None:
    """Remove unfinished files of slides: of an earlier run, or of a process of this run that ended."""
    for folder, suffix in (
        (config.out, schema.SUFFIX),
        (config.out / QC_FOLDER, ".jpg"),
        (config.out / MASKS_FOLDER, ".png"),
    ):
        remove_leftovers_of(folder, {f"{entry.slide_id}{suffix}" for entry in entries})


def _start_log(config: EmbedConfig, problems: list[Problem]) -> FailureLog:
    """Make the folders of the results, and a log of failures with the unusable rows in it."""
    make_folder(config.out)
    if config.qc or config.tissue_only:
        make_folder(config.out / QC_FOLDER)
        make_folder(config.out / MASKS_FOLDER)
    failures = FailureLog(config.out / _log_name(*config.shard_of_n))
    for problem in problems:
        failures.add(Failure(STAGE, problem.slide_id, problem.slide_path, problem.error, problem.hint))
    return failures


def _draw(picture: Path, plan: SlidePlan) -> None:
    """Draw a slide for quality control, and write its mask with what was measured."""
    draw_overlay(picture, plan)
    write_mask(picture.parent.parent / MASKS_FOLDER / f"{picture.stem}.png", plan)


def _warn_about_problems(config: EmbedConfig, entries: list[SlideEntry], problems: list[Problem]) -> None:
    """Warn about rows of the manifest that cannot be used.

    Raises:
        UsageError: No row can be used.
    """
    if not entries:
        raise UsageError(
            f"Manifest {config.manifest} has no usable slide:\n{summarise(problems)}", hint="See manifests/README.md."
        )
    if problems:
        console.warn(
            f"{config.manifest}: {count(len(problems), 'problem')}; these rows are left out:\n{summarise(problems)}"
        )


def _make_encoder(config: EmbedConfig, geometry: Geometry, hardware: Hardware, precision: Precision) -> Encoder:
    encoder = encoder_of(config, geometry, make_encoder)
    encoder.network.to(hardware.device)
    console.note(
        f"Encoder {encoder.name}: {encoder.embedding_dim}-d, weights {encoder.weights_sha256[:12]}, {precision} on "
        f"{hardware.description}"
    )
    console.note(
        f"Patches of {geometry.patch_px} px at {geometry.mpp:g} um/px, regions of {geometry.region_px} px "
        f"({geometry.grid} x {geometry.grid} patches)"
    )
    if config.encoder_name.startswith("random"):
        console.warn(
            f"Encoder {encoder.name} is untrained: its tokens are a baseline, not for results. `slpd encoders` lists "
            "trained ones."
        )
    elif config.encoder_name in {"handcrafted", "efficientnet-lite0"}:
        console.note("This is not a pathology model; `slpd encoders` lists pathology models and what to download.")
    return encoder


def _log_name(index: int, count: int) -> str:
    return FILENAME if count == 1 else FILENAME.replace(".csv", f".{index}-of-{count}.csv")
