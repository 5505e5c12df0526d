"""Stage three: how good is a representation? Bags, splits, audit, folds of every head, statistics, files: see `run`."""

from __future__ import annotations

import json
import platform
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING

import joblib
import numpy as np
import sklearn
import tomli_w
import torch

from slpd_toolkit.config.recipe import ABOUT, as_recipe
from slpd_toolkit.core import compute, console
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import claim_folder, sha256, write_csv, write_text
from slpd_toolkit.core.manifest import check_ids, check_rows, read_table, summarise
from slpd_toolkit.core.text import listed
from slpd_toolkit.core.version import __version__
from slpd_toolkit.core.workers import release_workers
from slpd_toolkit.mil.cohort.audit import audit_split, find_shared_vectors
from slpd_toolkit.mil.cohort.inputs import read_inputs
from slpd_toolkit.mil.cohort.split_kind import divide
from slpd_toolkit.mil.heads.fold_predictions import check_heads, run_folds
from slpd_toolkit.mil.heads.training import HeadTraining
from slpd_toolkit.mil.statistics.comparisons import compare_all
from slpd_toolkit.mil.statistics.evaluation import Resampling, fold_metrics, intervals
from slpd_toolkit.mil.statistics.results import Evaluation, Result
from slpd_toolkit.mil.statistics.tables import FOLD_COLUMNS, fold_rows, metrics_document, prediction_rows
from slpd_toolkit.report.evaluation_page import FIGURES, figure_files, write_report
from slpd_toolkit.report.evaluation_summary import print_summary
from slpd_toolkit.report.scores import write_scores
from slpd_toolkit.report.thumbnails import Thumbnails
from slpd_toolkit.representations.models import Cache
from slpd_toolkit.representations.opening import Frozen, open_models
from slpd_toolkit.representations.sources import REGION_VIT, parse_sources
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.token_file import TokenStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from slpd_toolkit.config.mil_eval import MilEvalConfig
    from slpd_toolkit.mil.cohort.audit import SplitAudit
    from slpd_toolkit.mil.cohort.inputs import Inputs
    from slpd_toolkit.mil.cohort.splits import Split
    from slpd_toolkit.mil.statistics.results import Representation
    from slpd_toolkit.representations.models import Model
    from slpd_toolkit.representations.sources import Source

REPORT, METRICS, PREDICTIONS, FOLDS = "report.html", "metrics.json", "predictions.csv", "folds.csv"
SCORES, RECIPE = "scores.h5", "recipe.toml"
_THUMBNAIL_PX = 640


def run(config: MilEvalConfig) -> int:
    """Evaluate every model under every aggregator on the same splits, and write what was found to `config.out`.

    Nothing is computed before everything is checked. Region embeddings are kept, so that the same command, run again,
    only trains the heads again.

    Returns:
        0.

    Raises:
        UsageError: Manifest, cache, models, splits and settings do not fit together; nothing was started.
        CacheError: The cache is empty, mixed, damaged, or can no longer be read.
        WeightsError: A model's file is no region ViT.
        DeviceMemoryError: Embedding regions does not fit the device.
    """
    with ExitStack() as stack:
        stack.enter_context(compute.within_memory("Use --device cpu, or wait until the device is free."))
        device = compute.resolve_device(config.device)
        precision = compute.resolve_precision(config.precision, device)
        table = _read_manifest(config.manifest)
        cache = None if config.cache is None else _open_cache(config, device, stack)
        frozen = Frozen(precision, config.view, config.seed, config.out)
        sources = parse_sources(config.model)
        models = open_models(sources, cache, frozen, no_features=set(table.columns))
        if cache is not None:
            _warn_of_empty(cache, table)
        inputs = read_inputs(table, _embedded(config, models), config)
        splits, split_notes = divide(inputs, config)
        check_heads(inputs.task, inputs.cohort.slides.tolist(), splits, config.aggregator)
        if config.folds is not None and config.fold_count is None:
            flag = "--splits" if config.splits else f"--fold-column {config.fold_column}"
            console.warn(f"--folds {config.folds} is not used: {flag} gives {len(splits)}.")
        _claim_folders(config, sources)
        slides = inputs.cohort.slides.tolist()
        representations = _represent(models, slides, cache)
    audits = {each.name: _audit(each, splits, inputs.patient_of) for each in representations}
    results = _evaluate(config, inputs, splits, representations)
    evaluation = Evaluation(
        target=inputs.target,
        task=inputs.task,
        cohort=inputs.cohort,
        representations=representations,
        results=results,
        comparisons=compare_all(inputs.task, inputs.cohort, results, _resampling(config)),
        audits=audits,
        recipe={
            **as_recipe(replace(config, folds=config.fold_count)),
            "task": config.kind,
            "precision": precision,
            "device": device.type,
            ABOUT: _about(config, models, cache, device),
        },
        notes=(*inputs.notes, *split_notes, *_undefined(results)),
    )
    _write(config, evaluation, splits, table)
    print_summary(evaluation)
    console.note(f"Look at {config.out / REPORT}.")
    return 0


def _claim_folders(config: MilEvalConfig, sources: Sequence[Source]) -> None:
    """Make the folders of results, before the work; none may be one of what is read, whose files would be replaced."""
    out = config.out
    names = (REPORT, METRICS, PREDICTIONS, FOLDS, SCORES, RECIPE)
    if config.cache is not None and out.resolve() == config.cache.resolve():
        raise UsageError(f"--out: {out} is the token cache.", hint=_OWN_FOLDER)
    if (out / REGION_VIT).exists():
        raise UsageError(f"--out: {out} is a run of `slpd pretrain`, whose {RECIPE} would be lost.", hint=_OWN_FOLDER)
    tables = [source.path for source in sources if source.path is not None]
    read = {path.resolve() for path in (config.manifest, *config.splits, *tables)}
    lost = [name for name in names if (out / name).resolve() in read]
    if lost:
        raise UsageError(f"--out: {out / lost[0]} is read, and would be replaced.", hint=_OWN_FOLDER)
    claim_folder(out, names)
    claim_folder(out / FIGURES, figure_files())


_OWN_FOLDER = "Give the evaluation a folder of its own."


def _read_manifest(path: Path) -> pd.DataFrame:
    table = read_table(path, required=("slide_id",))
    problems = check_ids(table)
    if problems:
        raise UsageError(f"Manifest {path}:\n{summarise(problems)}", hint="Correct these rows.")
    return table


def _open_cache(config: MilEvalConfig, device: torch.device, stack: ExitStack) -> Cache:
    assert config.cache is not None
    store = TokenStore.open(config.cache)
    return Cache(store, stack.enter_context(closing(CohortTokens(store))), device, config.workers)


def _warn_of_empty(cache: Cache, table: pd.DataFrame) -> None:
    """Say which slides have a token file that holds nothing: they count as missing, though their files are there."""
    empty = sorted((set(cache.store.slide_ids) - cache.files.keys()) & set(table["slide_id"]))
    if empty:
        console.warn(f"{len(empty)} slides have a token file without a region, and count as missing: {listed(empty)}.")


def _embedded(config: MilEvalConfig, models: Sequence[Model]) -> dict[str, Sequence[str]]:
    """The slides of each source of embeddings, by what it is called in messages; the cache once for all its models."""
    return {
        f"the cache {config.cache}" if model.of_cache else f"the table {model.source}": sorted(model.slides)
        for model in models
    }


def _represent(models: Sequence[Model], slides: Sequence[str], cache: Cache | None) -> tuple[Representation, ...]:
    files = {} if cache is None else cache.files
    regions = sum(len(files[slide]) for slide in slides if slide in files)
    total = regions * sum(model.of_cache for model in models)
    with console.progress("embed", total=total, unit="regions", shown=total > 0) as bar:
        return tuple(model.represent(slides, bar) for model in models)


def _audit(
    representation: Representation, splits: Sequence[Split], patient_of: Mapping[str, str]
) -> tuple[SplitAudit, ...]:
    shared = find_shared_vectors(representation.bags)
    return tuple(
        audit_split(split, patient_of, pretrained=representation.pretrained, shared_vectors=shared) for split in splits
    )


def _evaluate(
    config: MilEvalConfig, inputs: Inputs, splits: Sequence[Split], representations: Sequence[Representation]
) -> tuple[Result, ...]:
    task, jobs = inputs.task, config.jobs or joblib.cpu_count()
    training = HeadTraining(
        config.steps,
        config.head_batch,
        config.check_every,
        config.patience,
        learning_rate=config.lr,
        weight_decay=config.weight_decay,
    )
    results = []
    total = len(representations) * len(config.aggregator) * len(splits)
    with console.progress("evaluate", total=total, unit="folds") as bar:
        for representation in representations:
            for aggregator in config.aggregator:
                folds = []
                for fold in run_folds(
                    representation.bags, task, splits, aggregator, training=training, seed=config.seed, jobs=jobs
                ):
                    folds.append(fold)
                    bar.advance(1, f"{representation.name}, {aggregator}")
                results.append(
                    Result(
                        representation.name,
                        aggregator,
                        tuple(folds),
                        fold_metrics(task, folds),
                        intervals(task, inputs.cohort, folds, _resampling(config)),
                    )
                )
    release_workers()
    return tuple(results)


def _resampling(config: MilEvalConfig) -> Resampling:
    return Resampling(config.bootstrap, config.permutations, config.seed)


def _undefined(results: Sequence[Result]) -> list[str]:
    """Name the metrics that some test parts leave undefined: their means are over the others.

    A kappa is undefined where a model predicts nothing but the one class that there is, so it may be for some models.
    """
    counts = {name: max(int(np.isnan(result.values[name]).sum()) for result in results) for name in results[0].values}
    splits = len(results[0].folds)
    return [
        f"{name} is undefined in all test parts."
        if count == splits
        else f"{name} is undefined in {count} of {splits} test parts and is the mean of the others."
        for name, count in counts.items()
        if count
    ]


def _about(
    config: MilEvalConfig, models: Sequence[Model], cache: Cache | None, device: torch.device
) -> dict[str, object]:
    """Versions and digests."""
    return {
        "toolkit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scikit_learn": sklearn.__version__,
        "device": compute.describe(device),
        "manifest_sha256": sha256(config.manifest),
        "models": {model.name: model.digest for model in models if model.digest},
        **(
            {}
            if cache is None
            else {"encoder": cache.store.meta.encoder, "encoder_sha256": cache.store.meta.encoder_sha256}
        ),
    }


def _write(config: MilEvalConfig, evaluation: Evaluation, splits: Sequence[Split], table: pd.DataFrame) -> None:
    out = config.out
    (out / REPORT).unlink(missing_ok=True)  # written last: where a page is, all files are there and of one evaluation
    write_text(out / RECIPE, tomli_w.dumps(dict(evaluation.recipe)))
    write_csv(out / FOLDS, FOLD_COLUMNS, fold_rows(splits, evaluation.cohort))
    write_csv(out / PREDICTIONS, *prediction_rows(evaluation))
    write_scores(out / SCORES, evaluation)
    write_text(out / METRICS, json.dumps(metrics_document(evaluation), indent=2, allow_nan=False) + "\n")
    thumbnails = _thumbnails(config, table)
    write_report(out / REPORT, evaluation, thumbnails.read)
    if thumbnails.failures:
        slide, error = next(iter(thumbnails.failures.items()))
        console.note(
            f"note: The report shows {len(thumbnails.failures)} slides without pixels, their files cannot be read: "
            f"{listed(thumbnails.failures)}. {slide}: {error.message}"
        )


def _thumbnails(config: MilEvalConfig, table: pd.DataFrame) -> Thumbnails:
    """Slides in small, those that are still there."""
    folder = config.slides_root or config.manifest.parent
    entries = check_rows(table, folder)[0] if "slide_path" in table else []
    return Thumbnails({entry.slide_id: entry for entry in entries}, _THUMBNAIL_PX)
