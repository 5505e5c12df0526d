"""Results of the functions: folders on disk whose files are read as tables on first use."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.failures import read_failures

if TYPE_CHECKING:
    import os
    from typing import Self

    from slpd_toolkit.models.region_vit import RegionViT
    from slpd_toolkit.store.token_file import TokenStore
    from slpd_toolkit.training.prototype_file import PrototypeFile


@dataclass(frozen=True)
class Folder:
    """A folder of results; can be used wherever its path is expected."""

    folder: Path

    def __fspath__(self) -> str:
        return str(self.folder)


class Run(Folder):
    """A pretraining run. Its files are read when a property is used for the first time.

    A run can be used wherever a path is expected, for example as a model of `mil_eval`.

    >>> run = slpd.Run.open("runs/slpd")
    >>> run.metrics[["step", "loss"]].columns.tolist()
    ['step', 'loss']
    """

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Self:
        """Open the run folder of an earlier `pretrain`.

        Raises:
            UsageError: The folder does not contain a run.
        """
        from slpd_toolkit.training.run_folder import METRICS

        return cls(_require(Path(folder), METRICS, "a run of `slpd pretrain`"))

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """metrics.csv: one row every `log_every` steps with losses, learning rate and cluster sizes."""
        from slpd_toolkit.training.run_folder import METRICS

        return pd.read_csv(self.folder / METRICS)

    @cached_property
    def slides(self) -> pd.DataFrame:
        """slides.csv: the slides that the run was trained on, with their number of regions."""
        from slpd_toolkit.training.run_folder import SLIDES

        return pd.read_csv(self.folder / SLIDES, dtype={"slide_id": str})

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """recipe.toml: every setting of the run."""
        from slpd_toolkit.config.recipe import RECIPE

        return tomllib.loads((self.folder / RECIPE).read_text(encoding="utf-8"))

    @cached_property
    def prototypes(self) -> PrototypeFile | None:
        """prototypes.h5: slide prototypes, neighbors and the prototype of each region; None if there are none."""
        from slpd_toolkit.training.prototype_file import PrototypeFile
        from slpd_toolkit.training.run_folder import PROTOTYPES

        path = self.folder / PROTOTYPES
        return PrototypeFile.read(path) if path.exists() else None

    @cached_property
    def regions(self) -> pd.DataFrame:
        """One row per region of the slides that have prototypes; empty if the run has none.

        Columns: slide_id; x_l0 and y_l0 (top-left corner, level-0 px); region_l0 (side, level-0 px); prototype (0 to
        K - 1 within the slide); cosine (similarity to that prototype).
        """
        file = self.prototypes
        if file is None:
            return pd.DataFrame(columns=["slide_id", "x_l0", "y_l0", "region_l0", "prototype", "cosine"])
        kept = np.flatnonzero(file.region_row >= 0)
        rows = file.region_row[kept]
        return pd.DataFrame(
            {
                "slide_id": file.slide_ids[rows].astype(str),
                "x_l0": file.region_coords[kept, 0],
                "y_l0": file.region_coords[kept, 1],
                "region_l0": file.region_l0[rows],
                "prototype": file.region_cluster[kept],
                "cosine": file.region_cosine[kept],
            }
        )

    def region_vit(self) -> RegionViT:
        """Load the trained region ViT (the teacher), in eval mode on the CPU.

        Raises:
            WeightsError: The file is missing or cannot be read.
        """
        from slpd_toolkit.models.region_vit import RegionViT

        return RegionViT.from_file(self.folder)


class EvaluationResult(Folder):
    """An evaluation of representations. Its files are read when a property is used for the first time.

    >>> result = slpd.EvaluationResult.open("eval")
    >>> result.report.name
    'report.html'
    """

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Self:
        """Open the folder of an earlier `mil_eval`.

        Raises:
            UsageError: The folder does not contain an evaluation.
        """
        from slpd_toolkit.report.evaluation_folder import METRICS

        return cls(_require(Path(folder), METRICS, "an evaluation of `slpd mil-eval`"))

    @property
    def report(self) -> Path:
        """The HTML report."""
        from slpd_toolkit.report.evaluation_folder import REPORT

        return self.folder / REPORT

    @cached_property
    def document(self) -> dict[str, Any]:
        """metrics.json: every number of the evaluation; undefined ones are None."""
        from slpd_toolkit.report.evaluation_folder import METRICS

        document: dict[str, Any] = json.loads((self.folder / METRICS).read_text(encoding="utf-8"))
        return document

    @cached_property
    def targets(self) -> dict[str, EvaluationResult]:
        """The evaluation of each target, if there are several; empty for a single one."""
        folders = self.document.get("folders", {})
        return {target: EvaluationResult(self.folder / name) for target, name in folders.items()}

    def _of_targets(self, table: str) -> pd.DataFrame:
        found: list[pd.DataFrame] = [getattr(each, table).assign(target=name) for name, each in self.targets.items()]
        return pd.concat(found)

    @property
    def headline(self) -> str:
        """Name of the main metric, which comparisons are based on."""
        if self.targets:
            return next(iter(self.targets.values())).headline
        return str(self.document["task"]["headline"])

    @property
    def notes(self) -> list[str]:
        """Remarks that matter for the interpretation, such as slides that were left out."""
        if self.targets:
            return [f"{target}: {note}" for target, each in self.targets.items() for note in each.notes]
        return list(self.document["notes"])

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per model, aggregator and metric: mean and sd over folds, and the 95 % interval.

        Columns: model, aggregator, metric, mean, sd, low, high, conservative (whether the interval covers more than
        95 %). Undefined numbers are NaN. With several targets, this table and the others have a column `target`.
        """
        if self.targets:
            return self._of_targets("table")
        return pd.DataFrame(
            [
                {
                    "model": result["model"],
                    "aggregator": result["aggregator"],
                    "metric": metric,
                    **_numbers(mean=values["mean"], sd=values["sd"], **_limits(values["interval"])),
                    "conservative": bool(values["interval"]["conservative"]),
                }
                for result in self.document["results"]
                for metric, values in result["metrics"].items()
            ]
        )

    @cached_property
    def per_fold(self) -> pd.DataFrame:
        """One row per model, aggregator, metric and fold, with the columns repeat, fold and value."""
        if self.targets:
            return self._of_targets("per_fold")
        return pd.DataFrame(
            [
                {
                    "model": result["model"],
                    "aggregator": result["aggregator"],
                    "metric": metric,
                    "repeat": fold["repeat"],
                    "fold": fold["fold"],
                    **_numbers(value=value),
                }
                for result in self.document["results"]
                for metric, values in result["metrics"].items()
                for fold, value in zip(result["folds"], values["per_fold"], strict=True)
            ]
        )

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """One row per pair of models, aggregator and metric: differences, `first` minus `second`, and their p-values.

        Columns: aggregator, first, second, metric, difference, low, high (95 % interval), p_shared_training,
        p_permutation, p_corrected_t, p_delong; and, for the headline metric only, the same p-values with the prefix
        `adjusted_`, adjusted by Holm's method over all comparisons. Undefined numbers are NaN. Empty if there is only
        one model.
        """
        if self.targets:
            return self._of_targets("comparisons")
        rows = [
            {
                "aggregator": pair["aggregator"],
                "first": pair["first"],
                "second": pair["second"],
                "metric": metric,
                **_numbers(difference=values["difference"], **_limits(values["interval"])),
                **_numbers(**{f"p_{test}": (values[test] or {}).get("p") for test in _TESTS}),
                **_numbers(
                    **{
                        f"adjusted_p_{test}": pair["adjusted_p"].get(test) if metric == self.headline else None
                        for test in _TESTS
                    }
                ),
            }
            for pair in self.document["comparisons"]
            for metric, values in pair["metrics"].items()
        ]
        return pd.DataFrame(rows, columns=[*rows[0]] if rows else list(_COMPARISON))

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """predictions.csv: one row per test slide, model, aggregator and fold, with target and prediction."""
        if self.targets:
            return self._of_targets("predictions")
        from slpd_toolkit.report.evaluation_folder import PREDICTIONS

        return _read_csv(self.folder / PREDICTIONS)

    @cached_property
    def folds(self) -> pd.DataFrame:
        """folds.csv: the part (train, val or test) of every slide in each fold."""
        if self.targets:
            return self._of_targets("folds")
        from slpd_toolkit.report.evaluation_folder import FOLDS

        return _read_csv(self.folder / FOLDS)


class PredictionResult(Folder):
    """Predictions for new slides. Its files are read when a property is used for the first time.

    >>> result = slpd.PredictionResult.open("predicted")
    >>> result.heads["fold"].nunique()
    3
    """

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Self:
        """Open the folder of an earlier `predict`.

        Raises:
            UsageError: The folder does not contain complete predictions.
        """
        from slpd_toolkit.report.prediction_folder import PREDICTIONS

        return cls(_require(Path(folder), PREDICTIONS, "complete predictions of `slpd predict`"))

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """predictions.csv: one row per slide.

        Columns: slide_id; patient_id if the manifest has it; decision; for each class `probability_<class>` and
        `sd_probability_<class>` (mean and standard deviation over heads), or `risk`, `sd_risk` and `risk_percentile`;
        distance, distance_limit, far_from_training (`yes`, `no`, or `unknown` with fewer than 19 training slides).
        """
        from slpd_toolkit.report.prediction_folder import PREDICTIONS

        return _read_csv(self.folder / PREDICTIONS)

    @cached_property
    def heads(self) -> pd.DataFrame:
        """heads.csv: the outputs of each head, without temperature scaling."""
        from slpd_toolkit.report.prediction_folder import HEADS

        return _read_csv(self.folder / HEADS)

    @property
    def scores(self) -> Path:
        """scores.h5, which `heatmap` takes."""
        from slpd_toolkit.report.scores import FILENAME

        return self.folder / FILENAME

    @property
    def failures(self) -> pd.DataFrame:
        """Slides that were not predicted, with the columns stage, slide_id, path, error and hint."""
        return read_failures(self.folder)


class Atlas(Folder):
    """The prototype atlas of a run."""

    @property
    def page(self) -> Path:
        """The HTML page."""
        return self.folder / "index.html"

    @property
    def failures(self) -> pd.DataFrame:
        """Slides that are shown without their pixels, with the columns stage, slide_id, path, error and hint."""
        return read_failures(self.folder)


class Heatmaps(Folder):
    """Images and QuPath objects of slides."""

    @property
    def pictures(self) -> list[Path]:
        """One image per slide."""
        return sorted(self.folder.glob("*.png"))

    @property
    def qupath_objects(self) -> list[Path]:
        """One GeoJSON file per slide."""
        return sorted(self.folder.glob("*.geojson"))

    @property
    def failures(self) -> pd.DataFrame:
        """Slides without an image, or shown without their pixels: stage, slide_id, path, error and hint."""
        return read_failures(self.folder)


@dataclass(frozen=True, eq=False)
class Inspection:
    """The contents of a token file or a token cache."""

    facts: dict[str, str]
    """Description in words and units, as `slpd inspect` prints it."""
    slides: pd.DataFrame
    """One row per slide, as `TokenStore.slides`."""
    failures: pd.DataFrame
    """Files that cannot be read: stage, slide_id, path, error and hint."""
    site_effects: pd.DataFrame = field(default_factory=pd.DataFrame)
    """With `by`: measurement, value, interval and chance, as `slpd inspect` prints them; otherwise empty."""


@dataclass(frozen=True)
class DemoResult(Folder):
    """The folder of a demo: cache, two runs, and their evaluation."""

    cache: TokenStore
    """Tokens of the synthetic slides."""
    dino: Run
    """Pretraining run without prototype losses."""
    slpd: Run
    """Pretraining run with prototype losses."""
    evaluation: EvaluationResult
    """Comparison of both runs with mean tokens and with the planted truth."""


@dataclass(frozen=True, eq=False)
class StudyResult(Folder):
    """The folder of a study."""

    answer: tuple[str, ...]
    """Three sentences: the best representation, the differences, and what remains open."""
    evaluation: EvaluationResult
    """Comparison of the representations."""
    failures: pd.DataFrame
    """Slides and stages that failed: stage, slide_id, path, error and hint."""


_TESTS = ("shared_training", "permutation", "corrected_t", "delong")
_COMPARISON = (
    *("aggregator", "first", "second", "metric", "difference", "low", "high"),
    *(f"p_{test}" for test in _TESTS),
    *(f"adjusted_p_{test}" for test in _TESTS),
)


def _require(folder: Path, name: str, what: str) -> Path:
    if not (folder / name).is_file():
        raise UsageError(f"{folder} does not contain {what}: it has no {name}.", hint="Check the path.")
    return folder


def _read_csv(path: Path) -> pd.DataFrame:
    """Read a table; names are read as text even if they look like numbers."""
    return pd.read_csv(path, dtype=dict.fromkeys(_TEXT, str), keep_default_na=False)


_TEXT = ("model", "aggregator", "part", "slide_id", "patient_id", "target", "predicted")


def _numbers(**values: float | None) -> dict[str, float]:
    return {name: float("nan") if value is None else float(value) for name, value in values.items()}


def _limits(interval: dict[str, float | None]) -> dict[str, float | None]:
    return {"low": interval["low"], "high": interval["high"]}
