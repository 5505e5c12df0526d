"""Would heads trained on Cox's partial likelihood rank patients better than the discrete hazards of `slpd mil-eval`?

    python -m benchmarks.cox_heads planted            # probe and abmil on simulated cohorts
    python -m benchmarks.cox_heads real DATA          # probe on TCGA cohorts, by cross-validation

Both objectives train the same heads on the same splits. Simulated cohorts have continuous times from 60, 120 or 300
patients of which 10, 30 or 70 % have an event, with proportional hazards (what Cox assumes) or with an effect that
fades; concordance is measured on 2,000 other patients. DATA has the slide vectors of Diao et al., Nat Commun
2021;12:1613 (github.com/Path-AI/hif2gene, CC BY-NC-SA 4.0): figures may be quoted with the source.

The partial likelihood of a step is that of its batch, as in published Cox heads; that of the linear probe is of the
whole training part.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from slpd_toolkit.core.files import write_csv, write_text
from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.cohort.patients import Cohort
from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.heads.head import PartRows, load_head
from slpd_toolkit.mil.heads.training import HeadTraining
from slpd_toolkit.mil.tasks.kinds.survival import Survival
from slpd_toolkit.mil.tasks.likelihoods import Objective
from slpd_toolkit.mil.tasks.readouts import LinearModel, Readout

if TYPE_CHECKING:
    from torch import Tensor

    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.mil.tasks.readouts import VoteRule

RESULTS = Path(__file__).parent / "results"
PATIENTS, EVENTS = (60, 120, 300), (0.1, 0.3, 0.7)
OTHERS, WIDTH, INFORMATIVE = 2000, 32, 4
REPEATS = {"probe": 12, "abmil": 4}
TRAINING = HeadTraining(steps=200, check_every=20, batch_size=32)
COLUMNS = ("cohort", "head", "patients", "events", "repeat", "discrete", "cox")


@dataclass(frozen=True, eq=False)
class PartialLikelihood(Objective):
    """Cox's partial likelihood of the slides of a batch, with Breslow's ties (Biometrics 1974;30:89)."""

    vote_rule: ClassVar[VoteRule] = "mean"
    outputs = 1
    labels = None

    times: Tensor
    events: Tensor

    @property
    def readout(self) -> Readout:
        """The log hazard ratio."""
        return Readout("identity")

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """(B, 1) -> (B,), scaled so that its mean is the mean over events."""
        times, events, scores = self.times[rows], self.events[rows], logits[:, 0]
        at_risk = times[None, :] >= times[:, None]
        total = scores[None, :].masked_fill(~at_risk, float("-inf")).logsumexp(dim=1)
        share = len(rows) / events.sum().clamp(min=1)
        losses: Tensor = (total - scores) * events * share
        return losses

    def votes(self, rows: Tensor) -> Tensor:
        raise NotImplementedError

    def fit_linear(self, known: FloatArray, rows: Tensor, inverse_penalty: float) -> LinearModel:
        """Fit by L-BFGS, with the penalty of the other objectives: half the squared norm."""
        values = torch.from_numpy(known)
        weights = torch.zeros((known.shape[1], 1), dtype=torch.float64, requires_grad=True)
        events = self.events[rows].sum().clamp(min=1)
        optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

        def penalized() -> float:
            optimiser.zero_grad()
            loss = inverse_penalty * events * self.loss(values @ weights, rows).mean() + (weights**2).sum() / 2
            loss.backward()  # type: ignore[no-untyped-call]
            return float(loss.detach())

        optimiser.step(penalized)  # type: ignore[no-untyped-call]
        return LinearModel(weights.detach().numpy(), np.zeros(1))


def simulate(
    patients: int, events: float, rng: np.random.Generator, *, fading: bool, regions: int
) -> tuple[Bags, FloatArray, np.ndarray]:
    """Draw bags, times and events of the given share."""
    latent = rng.normal(size=(patients, WIDTH))
    risk = latent[:, :INFORMATIVE].sum(axis=1) / np.sqrt(INFORMATIVE)
    uniform = rng.random(patients)
    if fading:  # hazard exp(risk) until time 0.3, afterwards 1
        early = np.exp(risk) * 0.3
        hazard = -np.log(uniform)
        times = np.where(hazard < early, hazard / np.exp(risk), 0.3 + (hazard - early))
    else:
        times = -np.log(uniform) / np.exp(risk)
    censoring = np.quantile(times, events) * rng.uniform(0.5, 1.5, patients)
    bags = (latent[:, None, :] + rng.normal(size=(patients, regions, WIDTH))).astype(np.float32)
    slides = {f"p{number:04}": bag for number, bag in enumerate(bags)}
    return Bags.pack(slides), np.minimum(times, censoring), times <= censoring


def concordance(head: str, task: Survival, bags: Bags, rows: PartRows, *, cox: bool, seed: int) -> float:
    """Train one head and return the concordance of its test part."""
    objective = (
        PartialLikelihood(torch.from_numpy(task.times), torch.from_numpy(task.events.astype(np.float64)))
        if cox
        else task.objective(rows.train)
    )
    result = load_head(head).train_and_predict(bags, objective, rows, TRAINING, (seed, seed))
    outputs = objective.readout.one_by_one(result.logits)
    return task.metrics(rows.test, outputs[:, :1])["c_index"]


def planted(out: Path) -> None:
    rows = []
    for head, repeats in REPEATS.items():
        for fading in (False, True):
            for patients in PATIENTS:
                for share in EVENTS:
                    for repeat in range(repeats if patients < PATIENTS[-1] else max(repeats // 2, 3)):
                        rng = np.random.default_rng([patients, int(100 * share), repeat, fading])
                        bags, times, events = simulate(
                            patients + OTHERS, share, rng, fading=fading, regions=1 if head == "probe" else 6
                        )
                        task = Survival(times, events)
                        val = patients // 4
                        parts = PartRows(
                            np.arange(val, patients), np.arange(val), np.arange(patients, patients + OTHERS)
                        )
                        if events[:val].sum() < 1 or events[val:patients].sum() < 2:
                            continue
                        discrete, cox = (
                            concordance(head, task, bags, parts, cox=each, seed=repeat) for each in (False, True)
                        )
                        name = "fading effect" if fading else "proportional hazards"
                        cells = (name, head, patients, share, repeat, discrete, cox)
                        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    write_csv(out / "cox-planted.csv", COLUMNS, rows)


def real(data: Path, out: Path) -> None:
    rows = []
    for name in ("skcm", "stad", "nsclc"):
        with (data / f"hif_{name}.csv").open(encoding="utf-8", newline="") as file:
            table = {row["slide_id"]: row for row in csv.DictReader(file)}
        archive = np.load(data / f"hif_{name}.npz")
        kept = [
            index
            for index, slide in enumerate(archive["slide_id"].tolist())
            if slide in table and table[slide]["time"] not in {"", "nan"} and table[slide]["event"] not in {"", "nan"}
        ]
        slides = archive["slide_id"][kept]
        cells = [table[slide] for slide in slides.tolist()]
        times = np.array([float(row["time"]) for row in cells])
        events = np.array([float(row["event"]) > 0 for row in cells])
        task = Survival(times, events)
        bags = Bags(tuple(slides.tolist()), archive["vectors"][kept].astype(np.float32), np.arange(len(kept) + 1))
        cohort = Cohort(slides, np.array([row["patient_id"] for row in cells]), task.strata)
        for split in cross_validation(cohort, folds=5, repeats=3):
            parts = PartRows(*(bags.index_of(part) for part in split.parts.values()))
            discrete, cox = (concordance("probe", task, bags, parts, cox=each, seed=0) for each in (False, True))
            number = 5 * split.repeat + split.fold
            values = (name, "probe", len(kept), float(events.mean()), number, discrete, cox)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    write_csv(out / "cox-real.csv", COLUMNS, rows)


def summarize(out: Path) -> str:
    """Return both tables in Markdown."""
    lines = [
        "# Cox's partial likelihood against discrete hazards",
        "",
        "`python -m benchmarks.cox_heads planted` and `... real DATA`: mean concordance, and the mean difference with",
        "its standard error over repeats (cohorts, or folds of three repeats). Above 0: Cox ranks better.",
        "",
        "| cohort | head | patients | events | discrete hazards | Cox | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ("cox-planted.csv", "cox-real.csv"):
        if not (out / name).exists():
            continue
        with (out / name).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        keys = dict.fromkeys((row["head"], row["cohort"], row["patients"], row["events"]) for row in rows)
        for key in keys:
            found = [row for row in rows if (row["head"], row["cohort"], row["patients"], row["events"]) == key]
            one, other = (np.array([float(row[column]) for row in found]) for column in ("discrete", "cox"))
            difference = other - one
            error = difference.std(ddof=1) / np.sqrt(len(found)) if len(found) > 1 else float("nan")
            head, cohort, patients, events = key
            lines.append(
                f"| {cohort} | {head} | {patients} | {100 * float(events):.0f} % | {one.mean():.3f} | "
                f"{other.mean():.3f} | {difference.mean():+.3f} ± {error:.3f} |"
            )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("planted", "real"))
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "planted":
        planted(args.out)
    else:
        real(args.data, args.out)
    write_text(args.out / "cox.md", summarize(args.out))


if __name__ == "__main__":
    main()
