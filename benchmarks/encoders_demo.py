"""How good are the encoders that need no download on the slides of the demo, and what does each cost?

    python -m benchmarks.encoders_demo FOLDER --encoder efficientnet-lite0 --into benchmarks/results/encoders.json

Runs the steps of `slpd demo` with the encoder; FOLDER may hold the slides of an earlier call. `--until` stops after a
step (`embed`, `dino`, `slpd`, `evaluate`), and the same command continues. Adds to the JSON file:

- CPU seconds of each step, and the number of tokens;
- regions: the planted architecture of each region (at least half tissue) from its mean token, by multinomial logistic
  regression on standardized features, C chosen by an inner three-fold cross-validation, in five folds of patients:
  macro one-vs-rest AUC and accuracy;
- slides: AUC of the two classes of slides, by the evaluation of the demo.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.measure import add_to_report
from slpd_toolkit.commands import demo, embed, mil_eval, pretrain
from slpd_toolkit.commands.study.cohort import read_cohort
from slpd_toolkit.config import study_stages as stages
from slpd_toolkit.config.demo import DemoConfig
from slpd_toolkit.demo.painting import SLIDES, paint_cohort
from slpd_toolkit.demo.slides import TRUTH_SUFFIX
from slpd_toolkit.report import evaluation_folder
from slpd_toolkit.store.token_file import TokenStore

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

STEPS = ("embed", "dino", "slpd", "evaluate")
FOLDS, LEAST_TISSUE = 5, 0.5
_GRID = {"logisticregression__C": [1e-3, 1e-2, 1e-1, 1.0]}


def regions(folder: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.str_], npt.NDArray[np.str_]]:
    """Return each region's mean token over patches with tissue, its planted architecture, and its patient."""
    means, architectures, patients = [], [], []
    for file in TokenStore.open(folder / stages.CACHE).files:
        truth = json.loads((folder / SLIDES / f"{file.meta.slide_id}{TRUTH_SUFFIX}").read_text(encoding="utf-8"))
        squares = {(each["row"], each["column"]): each for each in truth["regions"]}
        rows_columns = np.round(file.coords[:, ::-1] * file.meta.mpp_l0 / truth["region_um"]).astype(int)
        for place, tokens, tissue in zip(rows_columns, file.tokens, file.tissue, strict=True):
            square = squares.get((int(place[0]), int(place[1])))
            if square is not None and square["tissue"] >= LEAST_TISSUE:
                means.append(tokens[tissue > 0].astype(np.float32).mean(0))
                architectures.append(square["architecture"])
                patients.append(truth["patient_id"])
    return np.stack(means), np.array(architectures), np.array(patients)


def probe_regions(folder: Path) -> dict[str, Any]:
    """Cross-validated AUC and accuracy of the planted architecture."""
    means, architectures, patients = regions(folder)
    probabilities = np.zeros((len(means), len(set(architectures.tolist()))))
    classes = np.unique(architectures)
    for train, test in GroupKFold(FOLDS).split(means, architectures, patients):
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
        search = GridSearchCV(probe, _GRID, cv=GroupKFold(3))
        search.fit(means[train], architectures[train], groups=patients[train])
        found = [int(np.flatnonzero(classes == name)[0]) for name in search.classes_]
        probabilities[np.ix_(test, found)] = search.predict_proba(means[test])
    return {
        "count": len(means),
        "width": means.shape[1],
        "auc": round(float(roc_auc_score(architectures, probabilities, multi_class="ovr")), 4),
        "accuracy": round(float((classes[probabilities.argmax(1)] == architectures).mean()), 4),
    }


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process and of its children that have ended."""
    before = os.times()
    work()
    after = os.times()
    return round(sum(after[:4]) - sum(before[:4]), 1)


def run_steps(config: DemoConfig, encoder: str, until: str) -> dict[str, float]:
    """Run the steps of the demo that are missing; returns the CPU seconds of each, also of earlier calls."""
    out = config.out
    paint_cohort(demo.planned_slides(config), out, config.jobs)
    study = replace(demo.study_settings(config), holdout=0.0)
    models = [stages.TOKENS, *(f"{name}={out / name}" for name in (stages.DINO, stages.SLPD)), *study.model]
    cohort = read_cohort(study, [stages.TOKENS, *study.model])
    cohort.write(stages.StagePaths.of(study))

    def train(*, prototypes: bool) -> int:
        return pretrain.run(stages.pretraining(study, prototypes=prototypes))

    works: dict[str, Callable[[], object]] = {
        "embed": lambda: embed.run(replace(stages.embedding(study), encoder=(encoder,))),
        "dino": lambda: train(prototypes=False),
        "slpd": lambda: train(prototypes=True),
        "evaluate": lambda: mil_eval.run(stages.evaluation(study, cohort.folds, models)),
    }
    notes = out / "cpu.json"
    spent: dict[str, float] = json.loads(notes.read_text(encoding="utf-8")) if notes.exists() else {}
    for step in STEPS[: STEPS.index(until) + 1]:
        if step not in spent:
            spent[step] = cpu_seconds(works[step])
            notes.write_text(json.dumps(spent), encoding="utf-8")
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--slides", type=int, default=0)
    parser.add_argument("--until", choices=STEPS, default=STEPS[-1])
    parser.add_argument("--into", type=Path, required=True)
    options = parser.parse_args()
    config = DemoConfig(out=options.folder, slides=options.slides)
    spent = run_steps(config, options.encoder, options.until)
    store = TokenStore.open(options.folder / stages.CACHE)
    result: dict[str, Any] = {"cpu_s": spent, "tokens": int(store.lengths.sum()) * store.grid**2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result["regions"] = probe_regions(options.folder)
    report = options.folder / stages.EVALUATION / evaluation_folder.METRICS
    if report.exists():
        results = json.loads(report.read_text(encoding="utf-8"))["results"]
        result["slides_auc"] = {
            f"{each['model']}, {each['aggregator']}": round(each["metrics"]["auc"]["mean"], 4) for each in results
        }
    add_to_report(options.into, "demo", {"slides": config.slide_count}, options.encoder, result)


if __name__ == "__main__":
    main()
