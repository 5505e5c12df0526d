"""Reproduce a published table: the probe of `slpd mil-eval` on 21 TCGA tasks with the authors' hold-out sets.

    python -m benchmarks.published DATA

DATA contains the slide vectors, manifests and `published_auc.csv` of Diao et al., Nat Commun 2021;12:1613: human-
interpretable image features of five TCGA cohorts, github.com/Path-AI/hif2gene, CC BY-NC-SA 4.0. The published areas
were recomputed from the authors' ROC arrays. The results may be quoted with their source; the data are not
part of the repository. The `split` column of each manifest is the authors' hold-out, with a seeded fifth of the
training part as the validation part.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slpd_toolkit.commands import mil_eval
from slpd_toolkit.config.mil_eval import MilEvalConfig
from slpd_toolkit.core.files import write_csv, write_text

RESULTS = Path(__file__).parent / "results"
CSV, MD = "published.csv", "published.md"
SOURCE = (
    "Diao et al., Nat Commun 2021;12:1613, data from github.com/Path-AI/hif2gene, CC BY-NC-SA 4.0; areas recomputed "
    "from the authors' ROC arrays"
)


@dataclass(frozen=True)
class Measured:
    """One task."""

    task: str
    patients: int
    tested: int
    published: float
    measured: float
    low: float
    high: float

    @property
    def covered(self) -> bool:
        """Whether the published area is within the interval."""
        return self.low <= self.published <= self.high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with holdout/ and published_auc.csv")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    with (args.data / "published_auc.csv").open(encoding="utf-8", newline="") as file:
        published = {row["task"]: float(row["published_auc"]) for row in csv.DictReader(file)}
    with tempfile.TemporaryDirectory() as name:
        found = [
            measure(args.data / "holdout", task, area, Path(name) / task) for task, area in sorted(published.items())
        ]
    write(args.out, found)


def measure(folder: Path, task: str, published: float, out: Path) -> Measured:
    """Run the command on one task."""
    mil_eval.run(
        MilEvalConfig(
            manifest=folder / f"{task}.csv",
            model=(f"hif={folder / f'{task}.npz'}",),
            fold_column="split",
            aggregator=("probe",),
            out=out,
        )
    )
    document = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    (result,) = document["results"]
    area = result["metrics"]["auc"]
    return Measured(
        task,
        document["cohort"]["patients"],
        result["folds"][0]["test"],
        published,
        area["mean"],
        area["interval"]["low"],
        area["interval"]["high"],
    )


def write(folder: Path, found: list[Measured]) -> None:
    """Write the table as CSV and as Markdown."""
    columns = ["task", "patients", "tested", "published", "measured", "low", "high"]
    rows = [
        {name: f"{value:.3f}" if isinstance(value, float) else value for name, value in vars(each).items()}
        for each in found
    ]
    write_csv(folder / CSV, columns, rows)
    ours, theirs = np.array([each.measured for each in found]), np.array([each.published for each in found])
    lines = [
        "# Published areas under the ROC curve, and those of `slpd mil-eval --fold-column split --aggregator probe`",
        "",
        f"Published: {SOURCE}.",
        "",
        "| task | patients | tested | published AUC | probe | 95 % interval |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {each.task.replace('_', ' ')} | {each.patients:,} | {each.tested} | {each.published:.3f} | "
        f"{each.measured:.3f} | {each.low:.3f} to {each.high:.3f} |"
        for each in found
    ]
    lines += [
        f"| **mean** | | | **{theirs.mean():.3f}** | **{ours.mean():.3f}** | |",
        "",
        f"Correlation over the {len(found)} tasks {np.corrcoef(ours, theirs)[0, 1]:.2f}. Published areas within it: ",
    ]
    lines[-1] += f"{sum(each.covered for each in found)} of {len(found)}."
    write_text(folder / MD, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
