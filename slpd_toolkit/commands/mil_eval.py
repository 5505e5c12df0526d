"""`slpd mil-eval`: evaluate representations. Bags, splits, audit, folds of every head, statistics, files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import joblib
import numpy as np

from slpd_toolkit.config.recipe import ABOUT, as_recipe
from slpd_toolkit.core import compute, console
from slpd_toolkit.core.cluster import joined_cluster
from slpd_toolkit.core.folder_lock import locks_folder
from slpd_toolkit.encoders.cache_check import normalisation_warning
from slpd_toolkit.mil.bundle.making import FinalTraining, make_bundles
from slpd_toolkit.mil.cohort.audit import audit_splits
from slpd_toolkit.mil.cohort.covariates import read_covariates
from slpd_toolkit.mil.cohort.inputs import patients_of, read_manifest
from slpd_toolkit.mil.cohort.near_copies import find_near_copies, near_copy_notes
from slpd_toolkit.mil.cohort.several_targets import read_targets
from slpd_toolkit.mil.external.inputs import read_external
from slpd_toolkit.mil.external.validation import OtherCohort, validate
from slpd_toolkit.mil.heads.fold_predictions import check_heads
from slpd_toolkit.mil.heads.training import HeadTraining
from slpd_toolkit.mil.statistics.comparisons import compare_all
from slpd_toolkit.mil.statistics.covariate_study import study_covariates
from slpd_toolkit.mil.statistics.evaluation import Permutations
from slpd_toolkit.mil.statistics.model_results import Counting, evaluate_models, missing_intervals, undefined_metrics
from slpd_toolkit.mil.statistics.results import Evaluation, RepresentationMeasures
from slpd_toolkit.mil.statistics.retrieval import measure_retrieval
from slpd_toolkit.mil.statistics.site_effects import measure_site_effects
from slpd_toolkit.mil.statistics.target_table import adjust_together, target_rows
from slpd_toolkit.report.covariate_section import print_covariates
from slpd_toolkit.report.evaluation_folder import REPORT, claim_evaluation_folder, write_evaluation
from slpd_toolkit.report.evaluation_summary import print_summary
from slpd_toolkit.report.external_section import print_external
from slpd_toolkit.report.targets_folder import (
    claim_targets_folder,
    folder_names,
    print_targets,
    require_single_target,
    write_targets,
)
from slpd_toolkit.report.thumbnails import Thumbnails
from slpd_toolkit.representations.bundled import origins_of, require_bundles
from slpd_toolkit.representations.cohort_bags import (
    open_cache,
    provenance,
    represent_all,
    slides_by_source,
    warn_of_empty_slides,
)
from slpd_toolkit.representations.collapse import collapse_warning
from slpd_toolkit.representations.external_cohort import open_external
from slpd_toolkit.representations.opening import InferenceOptions, open_models
from slpd_toolkit.representations.sources import parse_sources

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch

    from slpd_toolkit.config.mil_eval import MilEvalConfig
    from slpd_toolkit.core.errors import SlpdError
    from slpd_toolkit.mil.bundle.origin import Origin
    from slpd_toolkit.mil.cohort.covariates import Covariate
    from slpd_toolkit.mil.cohort.patients import Cohort
    from slpd_toolkit.mil.cohort.several_targets import OneTarget
    from slpd_toolkit.mil.statistics.evaluation import Judgement
    from slpd_toolkit.mil.statistics.results import Representation
    from slpd_toolkit.representations.models import Model

_THUMBNAIL_PX = 640


@dataclass(frozen=True, eq=False)
class _Evaluated:
    """The evaluation of one target."""

    target: OneTarget
    evaluation: Evaluation
    judgements: Sequence[Judgement]
    problems: Mapping[str, SlpdError]
    other: OtherCohort | None


@locks_folder("mil-eval")
def run(config: MilEvalConfig) -> int:
    """Evaluate every model with every aggregator on the same splits, and write the results to `config.out`.

    All inputs are checked before anything is computed. Region embeddings are stored, so that a second run of the same
    command only trains the heads.

    Returns:
        0, or 1 if aggregators are missing because their memory ran out.

    Raises:
        UsageError: The manifest, cache, models, splits or settings are invalid or do not match, or another process uses
            the folder; nothing was started.
        CacheError: The cache is empty, mixed, damaged, or can no longer be read.
        WeightsError: A model's file is not a region ViT.
        DeviceMemoryError: The device does not have enough memory.
    """
    with joined_cluster(config.cluster):
        return _run(config)


def _run(config: MilEvalConfig) -> int:
    device = compute.resolve_device(config.device)
    precision = compute.resolve_precision(config.precision, device)
    table = read_manifest(config.manifest)
    out_of_memory = compute.explain_out_of_memory("Use --device cpu, or wait until the device is free.")
    with out_of_memory, open_cache(config.cache, device, config.workers) as cache:
        options = InferenceOptions(precision, config.view, config.seed, config.out)
        sources = parse_sources(config.model)
        models = open_models(sources, cache, options, no_features=set(table.columns), patient_of=patients_of(table))
        if cache is not None:
            warn_of_empty_slides(cache, table["slide_id"])
            meta = cache.store.meta
            console.warn_if(normalisation_warning(meta.encoder, meta.encoder_sha256, meta.mean, meta.std))
        require_bundles(models, final=config.final)
        targets = read_targets(table, slides_by_source(config.cache, models), config)
        covariates = [read_covariates(each.inputs.covariates) for each in targets]
        for each in targets:
            check_heads(each.inputs.task, each.inputs.cohort.slides.tolist(), each.splits, config.aggregator)
        _warn_of_unused_folds(config, len(targets[0].splits))
        others = _read_external(config, models, targets, device, options)
        read = (config.manifest, *config.splits, *(source.path for source in sources if source.path is not None))
        folders = _claim_folders(config, targets, read)
        slides = np.unique(np.concatenate([each.inputs.cohort.slides for each in targets])).tolist()
        representations = represent_all(models, slides, cache)
        origins = origins_of(models, representations, options)
    recipe = {
        **as_recipe(replace(config, folds=config.fold_count)),
        "task": config.kind,
        "precision": precision,
        "device": device.type,
        ABOUT: provenance(config.manifest, models, cache, device),
    }
    found = [
        _evaluate(each, representations, columns, recipe, other)
        for each, columns, other in zip(targets, covariates, others, strict=True)
    ]
    if len(found) > 1:
        adjusted = adjust_together([each.evaluation for each in found])
        found = [replace(each, evaluation=evaluation) for each, evaluation in zip(found, adjusted, strict=True)]
    thumbnails = Thumbnails.of_manifest(table, config.slides_root or config.manifest.parent, _THUMBNAIL_PX)
    for evaluated, folder in zip(found, folders, strict=True):
        _write(evaluated, folder, origins, thumbnails)
    if len(found) > 1:
        evaluations = [each.evaluation for each in found]
        rows = target_rows(evaluations, [each.judgements for each in found])
        write_targets(config.out, rows, [folder.name for folder in folders], evaluations)
        print_targets(rows)
    console.note(f"Report: {config.out / REPORT}.")
    return 1 if any(each.problems for each in found) else 0


def _claim_folders(config: MilEvalConfig, targets: Sequence[OneTarget], read: Sequence[Path]) -> list[Path]:
    """Create the folder of each target: --out itself for a single one."""
    if len(targets) == 1:
        require_single_target(config.out)
        claim_evaluation_folder(config.out, config.cache, read)
        return [config.out]
    folders = [config.out / name for name in folder_names(config.target)]
    claim_targets_folder(config.out)
    for folder in folders:
        claim_evaluation_folder(folder, config.cache, read)
    return folders


def _evaluate(
    target: OneTarget,
    every: Sequence[Representation],
    covariates: Sequence[Covariate],
    recipe: Mapping[str, object],
    other: OtherCohort | None,
) -> _Evaluated:
    """Evaluate one target.

    Args:
        target: Its settings, slides and splits.
        every: Representations of the slides of all targets.
        covariates: Covariates of the target's slides.
        recipe: Settings, versions and digests of the whole evaluation.
        other: External cohort.
    """
    config, inputs, splits = target.config, target.inputs, target.splits
    task, cohort = inputs.task, inputs.cohort
    representations = tuple(each.of_slides(cohort.slides.tolist()) for each in every)
    copies = {each.name: find_near_copies(each.bags) for each in representations}
    audits = {
        each.name: audit_splits(each.bags, splits, inputs.patient_of, each.pretrained, copies[each.name])
        for each in representations
    }
    counting = Counting(config.unit, config.sensitivity, config.by_site)
    results, judgements, problems = evaluate_models(
        task,
        cohort,
        representations,
        {name: config.repeats_of(name) for name in config.aggregator},
        splits,
        training=_training(config),
        counting=counting,
        seed=config.seed,
        jobs=config.jobs or joblib.cpu_count(),
    )
    permutations = Permutations(config.permutations, config.seed)
    study = None
    if covariates:
        study = study_covariates(task, cohort, covariates, splits, results, judgements, counting, permutations)
    labels = np.unique(task.strata, return_inverse=True)[1] if task.strata_are_labels else None
    retrieval = [
        measure_retrieval(each, labels, cohort, splits, config.seed) for each in representations if labels is not None
    ]
    effects = [
        measure_site_effects(each, task, cohort, inputs.sites, config.seed)
        for each in representations
        if inputs.sites is not None
    ]
    evaluation = Evaluation(
        target=inputs.target,
        task=task,
        cohort=cohort,
        representations=representations,
        results=results,
        unit=config.unit,
        by_site=config.by_site,
        comparisons=compare_all(task, results, judgements, permutations),
        audits=audits,
        of_representations=RepresentationMeasures(
            tuple(each for each in retrieval if each), tuple(effects), inputs.sites, study
        ),
        recipe=recipe,
        notes=(
            *(f"{aggregator} is left out. {error}" for aggregator, error in problems.items()),
            *inputs.notes,
            *target.split_notes,
            *undefined_metrics(results),
            *missing_intervals(results, task.headline),
            *near_copy_notes(copies),
            *_collapsed(representations, cohort),
        ),
    )
    return _Evaluated(target, evaluation, judgements, problems, other)


def _collapsed(representations: Sequence[Representation], cohort: Cohort) -> list[str]:
    """Return notes on models that hardly tell patients apart; slides of a patient may share a vector."""
    rows = np.unique(cohort.patients, return_index=True)[1]
    ids = cohort.slides[rows].tolist()
    return list(filter(None, (collapse_warning(each.name, ids, each.bags.mean()[rows]) for each in representations)))


def _write(found: _Evaluated, folder: Path, origins: Mapping[str, Origin], thumbnails: Thumbnails) -> None:
    """Make the bundles of one target, apply them to the external cohort, and write and print everything."""
    config, evaluation, splits = found.target.config, found.evaluation, found.target.splits
    final = FinalTraining(_training(config), config.seed) if config.final else None
    bundles = make_bundles(evaluation, splits, origins, final)
    external = None
    if found.other is not None:
        permutations = Permutations(config.permutations, config.seed)
        external = validate(evaluation, found.judgements, bundles, found.other, permutations)
    write_evaluation(folder, evaluation, splits, thumbnails, bundles, external)
    print_summary(evaluation)
    study = evaluation.of_representations.covariates
    if study is not None:
        print_covariates(study, evaluation.task)
    if external is not None:
        print_external(external)


def _read_external(
    config: MilEvalConfig,
    models: Sequence[Model],
    targets: Sequence[OneTarget],
    device: torch.device,
    options: InferenceOptions,
) -> list[OtherCohort | None]:
    """Read the external cohort for each target, and embed its slides; None if there is none."""
    if config.external_manifest is None:
        return [None] * len(targets)
    table = read_manifest(config.external_manifest)
    columns, patients = set(table.columns), patients_of(table)
    with open_external(
        config.external, models, device, config.workers, options, no_features=columns, patient_of=patients
    ) as opened:
        inputs = [
            read_external(table, opened.by_source, each.inputs.task, each.config, lenient=len(targets) > 1)
            for each in targets
        ]
        slides = np.unique(np.concatenate([each.cohort.slides for each in inputs])).tolist()
        every = represent_all(opened.models, slides, opened.cache)
    return [
        OtherCohort(
            config.external_manifest.name,
            each,
            [representation.of_slides(each.cohort.slides.tolist()) for representation in every],
        )
        for each in inputs
    ]


def _warn_of_unused_folds(config: MilEvalConfig, splits: int) -> None:
    if config.folds is not None and config.fold_count is None:
        flag = "--splits" if config.splits else f"--fold-column {config.fold_column}"
        console.warn(f"--folds {config.folds} is not used: {flag} gives {splits}.")


def _training(config: MilEvalConfig) -> HeadTraining:
    return HeadTraining(
        config.steps,
        config.head_batch,
        config.check_every,
        config.patience,
        learning_rate=config.lr,
        weight_decay=config.weight_decay,
    )
