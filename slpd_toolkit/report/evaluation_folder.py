"""The output folder of an evaluation: checked before the work, written after it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

from slpd_toolkit.config.recipe import RECIPE
from slpd_toolkit.core import console
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import claim_folder, write_csv, write_text
from slpd_toolkit.core.result_folders import require_results_of
from slpd_toolkit.core.text import count, listed
from slpd_toolkit.core.toml import toml_text
from slpd_toolkit.mil.bundle.files import remove_bundle, stale_bundles, write_bundle
from slpd_toolkit.mil.bundle.reading import MODEL
from slpd_toolkit.mil.external.results import external_document, external_rows
from slpd_toolkit.mil.statistics.tables import (
    FOLD_COLUMNS,
    covariate_rows,
    finite,
    fold_rows,
    metrics_document,
    prediction_rows,
)
from slpd_toolkit.report.evaluation_page import FIGURES, figure_files, write_report
from slpd_toolkit.report.model_card import model_card
from slpd_toolkit.report.scores import FILENAME as SCORES
from slpd_toolkit.report.scores import write_scores

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from slpd_toolkit.mil.bundle.bundle import Bundle
    from slpd_toolkit.mil.cohort.splits import Split
    from slpd_toolkit.mil.external.results import External
    from slpd_toolkit.mil.statistics.results import Evaluation
    from slpd_toolkit.report.thumbnails import Thumbnails

REPORT, METRICS, PREDICTIONS, FOLDS = "report.html", "metrics.json", "predictions.csv", "folds.csv"
EXTERNAL, COVARIATES = "external_predictions.csv", "covariates.csv"
_FILES = (REPORT, METRICS, PREDICTIONS, FOLDS, SCORES, RECIPE, EXTERNAL, COVARIATES)
TARGETS = "targets.csv"
"""Table of an evaluation of several targets, each in a sub-folder."""
_OWN_FOLDER = "Use a separate folder for the evaluation."


def claim_evaluation_folder(out: Path, cache: Path | None, inputs: Iterable[Path]) -> None:
    """Create the folder and its figures/ before the work starts.

    Args:
        out: The folder.
        cache: The token cache that is read, if any.
        inputs: Input files, which must not be overwritten by results.

    Raises:
        UsageError: `out` is a cache or has results of another command, an input would be overwritten, or the folder is
            not writable.
    """
    if cache is not None and out.resolve() == cache.resolve():
        raise UsageError(f"--out: {out} is the token cache.", hint=_OWN_FOLDER)
    require_results_of("mil-eval", out)
    read = {path.resolve() for path in inputs}
    lost = [name for name in _FILES if (out / name).resolve() in read]
    if lost:
        raise UsageError(f"--out: {out / lost[0]} is an input and would be overwritten.", hint=_OWN_FOLDER)
    claim_folder(out, _FILES)
    claim_folder(out / FIGURES, figure_files())


def write_evaluation(
    out: Path,
    evaluation: Evaluation,
    splits: Sequence[Split],
    thumbnails: Thumbnails,
    bundles: Sequence[Bundle] = (),
    external: External | None = None,
) -> None:
    """Write all files of an evaluation. The report comes last: if it exists, all files belong to the same evaluation.

    Args:
        out: The folder.
        evaluation: The results.
        splits: Training, validation and test slides of each split.
        thumbnails: Slides for the report; those that cannot be read are shown without pixels.
        bundles: The trained heads, written to `model/`.
        external: Results on another cohort.
    """
    (out / REPORT).unlink(missing_ok=True)
    write_text(out / RECIPE, toml_text(dict(evaluation.recipe)))
    write_csv(out / FOLDS, FOLD_COLUMNS, fold_rows(splits, evaluation.cohort))
    write_csv(out / PREDICTIONS, *prediction_rows(evaluation))
    write_scores(out / SCORES, evaluation)
    document = metrics_document(evaluation)
    (out / EXTERNAL).unlink(missing_ok=True)
    (out / COVARIATES).unlink(missing_ok=True)
    if evaluation.of_representations.covariates is not None:
        write_csv(out / COVARIATES, *covariate_rows(evaluation))
    if external is not None:
        document["external"] = finite(external_document(external))
        write_csv(out / EXTERNAL, *external_rows(external))
    write_text(out / METRICS, json.dumps(document, indent=2, allow_nan=False) + "\n")
    _write_bundles(out / MODEL, evaluation, bundles, external)
    write_report(out / REPORT, evaluation, thumbnails.read, external)
    if thumbnails.failures:
        slide, error = next(iter(thumbnails.failures.items()))
        console.note(
            f"note: The report shows {count(len(thumbnails.failures), 'slide')} without pixels, because their files "
            f"cannot be read: {listed(thumbnails.failures)}. {slide}: {error.message}"
        )


def _write_bundles(folder: Path, evaluation: Evaluation, bundles: Sequence[Bundle], external: External | None) -> None:
    """Write bundles, each in its own folder if there are several; those of an earlier evaluation are removed."""
    names = [f"{bundle.model}-{bundle.aggregator}" for bundle in bundles] if len(bundles) > 1 else [""] * len(bundles)
    for stale in stale_bundles(folder, names):
        remove_bundle(stale)
        if stale != folder:
            with suppress(OSError):  # files of other names belong to the user
                stale.rmdir()
    for name, bundle in zip(names, bundles, strict=True):
        write_bundle(folder / name, bundle, model_card(bundle, evaluation, external))
