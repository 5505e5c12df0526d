"""`slpd predict`: new slides through the heads of a bundle, from pixels, tokens or vectors."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast, get_args

from slpd_toolkit.config.recipe import ABOUT, RECIPE, as_recipe
from slpd_toolkit.core import compute, console
from slpd_toolkit.core.errors import SlpdError, UsageError
from slpd_toolkit.core.failures import FILENAME, Failure, FailureLog
from slpd_toolkit.core.files import write_text
from slpd_toolkit.core.folder_lock import locks_folder
from slpd_toolkit.core.manifest import check_masks, check_rows, read_table
from slpd_toolkit.core.precision import Precision
from slpd_toolkit.core.text import agree, count, listed
from slpd_toolkit.core.toml import toml_text
from slpd_toolkit.core.version import __version__
from slpd_toolkit.ingest.embedding.as_bundled import embed_as_bundled, embedding_settings, fixed_settings
from slpd_toolkit.mil.bundle.bundle import FINAL, predict
from slpd_toolkit.mil.bundle.reading import choose_bundle, read_bundle
from slpd_toolkit.mil.cohort.inputs import read_manifest
from slpd_toolkit.report.covariate_section import stored_heads_sentence
from slpd_toolkit.report.model_card import distance_sentence
from slpd_toolkit.report.prediction_folder import PAGES, PREDICTIONS, claim_prediction_folder, write_predictions
from slpd_toolkit.report.prediction_table import UNKNOWN, YES, prediction_columns, prediction_rows
from slpd_toolkit.report.thumbnails import Thumbnails
from slpd_toolkit.representations.new_slides import STAGE, open_tokens, represent_tokens, represent_vectors
from slpd_toolkit.representations.opening import InferenceOptions

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    import torch

    from slpd_toolkit.config.predict import PredictConfig
    from slpd_toolkit.mil.bundle.bundle import Bundle, Predictions
    from slpd_toolkit.mil.statistics.results import Representation

CACHE = "cache"
"""Folder of the tokens of slides that are embedded here."""
_THUMBNAIL_PX = 640
_SHOWN = 20


@locks_folder(STAGE)
def run(config: PredictConfig) -> int:
    """Predict slides, and write the results to `config.out`.

    Returns:
        0, or 1 if some slides failed; failures.csv lists them.

    Raises:
        UsageError: The bundle is incomplete, damaged, of another version, or does not fit the slides' encoder or
            geometry; the manifest is invalid; or another process uses the folder. Nothing was predicted.
        WeightsError: The encoder's weights do not fit.
        SlpdError: No slide could be predicted.
        DeviceMemoryError: The device does not have enough memory.
    """
    bundle = read_bundle(choose_bundle(config.bundle, config.model, config.aggregator))
    _require_input(config, bundle)
    if bundle.unused_covariates:
        console.note(f"note: {stored_heads_sentence(bundle.unused_covariates)}")
    device = compute.resolve_device(config.device)
    table = _read_manifest(config)
    read = (config.bundle, config.manifest, config.cache, config.vectors)
    claim_prediction_folder(config.out, bundle, [path for path in read if path is not None])
    failures = FailureLog(config.out / FILENAME)
    with compute.explain_out_of_memory("Use --device cpu, or wait until the device is free."):
        representation = _represent(config, bundle, table, device, failures)
    if representation is None:
        first = next((f"{row.slide_id or row.path}: {row.error} " for row in failures.rows), "")
        raise SlpdError(f"No slide could be predicted. {first}".strip(), hint=f"{failures.path} lists all reasons.")
    found = predict(bundle, representation.bags, final=config.final)
    recipe = {**as_recipe(config), ABOUT: {"toolkit": __version__, "bundle_sha256": bundle.digest}}
    write_text(config.out / RECIPE, toml_text(recipe))
    thumbnails = _thumbnails(config, table)
    small = thumbnails.read if config.pages else None
    write_predictions(config.out, bundle, found, representation, _patients(table), small, failures.rows)
    _print_summary(config, bundle, found, failures)
    return 1 if len(failures) else 0


def _require_input(config: PredictConfig, bundle: Bundle) -> None:
    """Check that the bundle can use what was given.

    Raises:
        UsageError: It cannot.
    """
    of_table = bundle.origin.kind == "table"
    if of_table and config.vectors is None:
        raise UsageError(
            f"The bundle {bundle.model}, {bundle.aggregator} was trained on slide vectors ({bundle.origin.source}), "
            "which cannot be computed from slides or tokens.",
            hint="Pass the vectors of the new slides: --vectors FILE.",
        )
    if not of_table and config.vectors is not None:
        raise UsageError(
            f"--vectors: got {config.vectors}, but the bundle {bundle.model}, {bundle.aggregator} was trained on the "
            f"regions of slides ({bundle.origin.source}).",
            hint="Pass a manifest of slides, or their token cache: --cache FOLDER.",
        )
    if config.final and all(head.name != FINAL for head in bundle.heads):
        raise UsageError(
            "--final: this bundle has no head that was trained on all patients.", hint="Run `slpd mil-eval --final`."
        )


def _read_manifest(config: PredictConfig) -> pd.DataFrame | None:
    if config.manifest is None:
        return None
    embeds = config.cache is None and config.vectors is None
    return read_table(config.manifest) if embeds else read_manifest(config.manifest)


def _represent(
    config: PredictConfig, bundle: Bundle, table: pd.DataFrame | None, device: torch.device, failures: FailureLog
) -> Representation | None:
    """Embed what must be embedded, and return the bags of all slides that can be predicted."""
    wanted = None if table is None else set(table["slide_id"])
    if config.vectors is not None:
        columns = set() if table is None else set(table.columns)
        return represent_vectors(bundle, config.vectors, wanted, columns, _patients(table), failures)
    cache, precision = config.cache, _precision(config, bundle.origin.precision)
    if cache is None:
        assert table is not None
        cache = config.out / CACHE
        wanted = _embed(config, bundle, table, cache, device, failures)
    files = open_tokens(bundle, cache, wanted, failures)
    options = InferenceOptions(compute.resolve_precision(precision, device), bundle.origin.view, 0, config.out)
    return represent_tokens(bundle, files, options, device, config.workers, failures)


def _embed(
    config: PredictConfig,
    bundle: Bundle,
    table: pd.DataFrame,
    cache: Path,
    device: torch.device,
    failures: FailureLog,
) -> set[str]:
    """Embed the slides of a manifest as the training slides were embedded.

    Returns:
        The slides that can be expected in the cache.
    """
    assert config.manifest is not None
    entries, problems = check_rows(table, config.slides_root or config.manifest.parent)
    mode = bundle.origin.recipe.get("mask_mode")
    if mode is not None and "mask_path" not in table:
        raise UsageError(
            f"The regions of the training slides were chosen by masks (--mask-mode {mode}), but {config.manifest} has "
            "no column mask_path.",
            hint="Add a column `mask_path` with the masks of the new slides; see `slpd embed --help`.",
        )
    if mode is not None:
        entries, more = check_masks(entries, needed=mode != "not")
        problems = [*problems, *more]
    elif "mask_path" in table:
        console.warn("The column `mask_path` is ignored, because the training slides were embedded without masks.")
        entries = [replace(entry, mask_path=None) for entry in entries]
    settings = embedding_settings(
        bundle.origin,
        manifest=config.manifest,
        out=cache,
        slides_root=config.slides_root,
        weights=config.weights,
        batch_size=config.batch_size,
        workers=config.workers,
        device=config.device,
        precision=_precision(config, str(bundle.origin.tokens["precision"])),
    )
    for problem in problems:
        failures.add(Failure("embed", problem.slide_id, problem.slide_path, problem.error, problem.hint))
    embed_as_bundled(bundle.origin, settings, entries, device, failures)
    fixed = fixed_settings(bundle.origin, failures.rows)
    if fixed:
        console.warn(
            f"{listed(fixed)} cannot be changed here: new slides must be embedded like the training slides. Slides "
            "that need other settings cannot be predicted with this bundle."
        )
    failed = {failure.slide_id for failure in failures.rows}
    return {entry.slide_id for entry in entries} - failed


def _precision(config: PredictConfig, of_training: str) -> Precision:
    if config.precision != "auto":
        return config.precision
    if of_training not in get_args(Precision):
        raise UsageError(f"The bundle has the unknown precision {of_training!r}.")
    return cast("Precision", of_training)


def _patients(table: pd.DataFrame | None) -> dict[str, str] | None:
    if table is None or "patient_id" not in table:
        return None
    pairs = zip(table["slide_id"].tolist(), table["patient_id"].tolist(), strict=True)
    return {slide: patient or slide for slide, patient in pairs}


def _thumbnails(config: PredictConfig, table: pd.DataFrame | None) -> Thumbnails:
    if table is None or config.manifest is None:
        return Thumbnails({}, _THUMBNAIL_PX)
    return Thumbnails.of_manifest(table, config.slides_root or config.manifest.parent, _THUMBNAIL_PX)


def _print_summary(config: PredictConfig, bundle: Bundle, found: Predictions, failures: FailureLog) -> None:
    shown = [name for name in prediction_columns(bundle, patients=False) if not name.startswith(("sd_", "survival_"))]
    rows = list(prediction_rows(bundle, found, None))
    table = [{_title(name): _cell(row[name]) for name in shown if name != "distance_limit"} for row in rows[:_SHOWN]]
    first = f", the first {_SHOWN}" if len(rows) > _SHOWN else ""
    console.table(f"{bundle.target}: {count(len(rows), 'slide')}, {bundle.model}, {bundle.aggregator}{first}", table)
    far = [str(row["slide_id"]) for row in rows if row["far_from_training"] == YES]
    if far:
        console.warn(
            f"{count(len(far), 'slide is', 'slides are')} far from the training set, so "
            f"{agree(len(far), 'its prediction', 'their predictions')} may be unreliable: {listed(far)}."
        )
    if rows and rows[0]["far_from_training"] == UNKNOWN:
        console.warn(distance_sentence(bundle))
    if len(failures):
        console.warn(f"{count(len(failures), 'slide')} failed: {failures.path} lists the reasons.")
    page = f" and {config.out / PAGES}" if config.pages else ""
    console.note(f"Predictions: {config.out / PREDICTIONS}{page}.")


def _title(column: str) -> str:
    return {"far_from_training": "far"}.get(column, column.removeprefix("probability_"))


def _cell(value: object) -> object:
    return f"{value:.3f}" if isinstance(value, float) else value
