"""`slpd mil-eval --external` on 21 TCGA tasks: the authors' training part as cohort A, their hold-out as cohort B.

    python -m benchmarks.external_published DATA

DATA is described in `benchmarks.published`. Heads of five folds of A are applied to all of B; the published areas are
of one model of the authors that was trained on all of A.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from pathlib import Path

import numpy as np

from slpd_toolkit.commands import mil_eval
from slpd_toolkit.config.mil_eval import MilEvalConfig
from slpd_toolkit.core.files import write_csv, write_text

RESULTS = Path(__file__).parent / "results"
COLUMNS = (
    *("task", "training_patients", "external_patients", "published", "cross_validation"),
    *("external", "low", "high", "ensemble", "drop", "drop_low", "drop_high", "far_slides"),
)
SOURCE = (
    "Diao et al., Nat Commun 2021;12:1613, data from github.com/Path-AI/hif2gene, CC BY-NC-SA 4.0; areas recomputed "
    "from the authors' ROC arrays"
)


def measure(data: Path, task: str, folder: Path) -> dict[str, object]:
    """Evaluate one task."""
    with (data / "holdout" / f"{task}.csv").open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        columns, rows = list(reader.fieldnames or ()), list(reader)
    archive = np.load(data / "holdout" / f"{task}.npz")
    position = {slide: index for index, slide in enumerate(archive["slide_id"].tolist())}
    files = {}
    for part in ("inside", "outside"):
        chosen = [row for row in rows if (row["split"] == "test") == (part == "outside")]
        files[part] = folder / f"{part}.csv"
        write_csv(files[part], columns, chosen)
        kept = [position[row["slide_id"]] for row in chosen]
        np.savez(folder / f"{part}.npz", slide_id=archive["slide_id"][kept], vectors=archive["vectors"][kept])
    config = MilEvalConfig(
        manifest=files["inside"],
        model=(f"hif={folder / 'inside.npz'}",),
        external=(str(folder / "outside.npz"),),
        external_manifest=files["outside"],
        out=folder / "eval",
        aggregator=("probe",),
        repeats=1,
        jobs=1,
        allow_missing=True,
        permutations=10,
    )
    mil_eval.run(config)
    document = json.loads((folder / "eval" / "metrics.json").read_text(encoding="utf-8"))
    (inside,), (outside,) = document["results"], document["external"]["results"]
    auc = outside["metrics"]["auc"]
    values = (
        *(task, document["cohort"]["patients"], document["external"]["cohort"]["patients"], None),
        *(inside["metrics"]["auc"]["mean"], auc["mean"], auc["low"], auc["high"], auc["ensemble"]["value"]),
        *(auc["drop"]["value"], auc["drop"]["low"], auc["drop"]["high"], outside["far_from_training"]),
    )
    return dict(zip(COLUMNS, values, strict=True))


def text_of(rows: list[dict[str, object]]) -> str:
    """Return the table in Markdown."""
    lines = [
        "# The hold-out of published tasks as an external cohort",
        "",
        "`python -m benchmarks.external_published DATA`: `slpd mil-eval --external`, probe, five folds of the training",
        f"part, applied to the hold-out. Published: {SOURCE}.",
        "",
        "| task | patients | external | published AUC | cross-validation | external: mean of heads | ensemble | drop |",
        "|---|---|---|---|---|---|---|---|",
    ]
    numbers = {name: np.array([float(str(row[name])) for row in rows]) for name in COLUMNS[1:]}
    for index, row in enumerate(rows):
        each = {name: values[index] for name, values in numbers.items()}
        lines.append(
            f"| {str(row['task']).replace('_', ' ')} | {each['training_patients']:,.0f} | "
            f"{each['external_patients']:,.0f} | {each['published']:.3f} | {each['cross_validation']:.3f} | "
            f"{each['external']:.3f} [{each['low']:.3f}, {each['high']:.3f}] | {each['ensemble']:.3f} | "
            f"{each['drop']:+.3f} [{each['drop_low']:+.3f}, {each['drop_high']:+.3f}] |"
        )
    mean = {name: values.mean() for name, values in numbers.items()}
    lines.append(
        f"| **mean** | | | {mean['published']:.3f} | {mean['cross_validation']:.3f} | {mean['external']:.3f} | "
        f"{mean['ensemble']:.3f} | {mean['drop']:+.3f} |"
    )
    inside = int(((numbers["low"] <= numbers["published"]) & (numbers["published"] <= numbers["high"])).sum())
    correlation = float(np.corrcoef(numbers["published"], numbers["external"])[0, 1])
    drops = int(((numbers["drop_low"] > 0) | (numbers["drop_high"] < 0)).sum())
    shares = numbers["far_slides"].sum() / numbers["external_patients"].sum()
    last = (
        f"Correlation of published and external areas over the {len(rows)} tasks {correlation:.2f}. Published areas "
        f"within the external interval: {inside} of {len(rows)}. Intervals of the drop without 0: {drops}. Slides "
        f"marked as far from the training set: {100 * shares:.1f} %, intended 5 %."
    )
    return "\n".join([*lines, "", last, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with holdout/ and published_auc.csv")
    parser.add_argument("--tasks", nargs="*", help="only these; others are kept from an earlier run")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.data / "published_auc.csv").open(encoding="utf-8", newline="") as file:
        published = {row["task"]: float(row["published_auc"]) for row in csv.DictReader(file)}
    path = args.out / "external-published.csv"
    rows: dict[str, dict[str, object]] = {}
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            rows = {row["task"]: dict(row) for row in csv.DictReader(file)}
    for task in args.tasks or published:
        with tempfile.TemporaryDirectory() as name:
            rows[task] = measure(args.data, task, Path(name)) | {"published": published[task]}
    found = [rows[task] for task in published if task in rows]
    write_csv(path, COLUMNS, found)
    write_text(path.with_suffix(".md"), text_of(found))


if __name__ == "__main__":
    main()
