"""Sentences that summarize a comparison of representations and claim no more than its paired test supports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LEVEL = 0.05
METRIC, TEST = "auc", "shared_training"
"""Metric and paired test, which asks whether the difference would hold with other training and test patients."""

Document = dict[str, Any]
"""metrics.json of `slpd mil-eval`."""


def result_rows(document: Document, names: Mapping[str, str]) -> list[dict[str, object]]:
    """Return a table with one row per model and one column per aggregator: mean AUC and its 95 % interval.

    Args:
        document: Contents of metrics.json.
        names: Display name of each model, in row order.
    """
    cells: dict[str, dict[str, object]] = {model: {"AUC": name} for model, name in names.items()}
    for result in document["results"]:
        auc = result["metrics"][METRIC]
        low, high = auc["interval"]["low"], auc["interval"]["high"]
        cells[result["model"]][result["aggregator"]] = f"{_number(auc['mean'])} ({_number(low)}-{_number(high)})"
    return list(cells.values())


def conclude(document: Document, first: str, second: str, names: Mapping[str, str]) -> str:
    """Describe whether one model was better than another, and with which aggregators, by the adjusted test.

    Args:
        document: Contents of metrics.json.
        first: The first model.
        second: The second model.
        names: Display names of the models.
    """
    one, other = names[first], names[second]
    pairs = [_oriented(pair, first, second) for pair in document["comparisons"]]
    known = [pair for pair in pairs if pair is not None]
    differences = ", ".join(f"{difference:+.2f} ({aggregator})" for aggregator, difference, _ in known)
    said = f"{one} vs. {other}, difference in AUC: {differences}."
    better = [aggregator for aggregator, difference, p in known if p is not None and p < LEVEL and difference > 0]
    worse = [aggregator for aggregator, difference, p in known if p is not None and p < LEVEL and difference < 0]
    if better:
        said += f" {one} is better with {_listed(better)} (adjusted p below {LEVEL:g})."
    if worse:
        said += f" {one} is worse with {_listed(worse)} (adjusted p below {LEVEL:g})."
    if not better and not worse:
        smallest = min((p for _, _, p in known if p is not None), default=None)
        patients = document["cohort"]["patients"]
        shown = "no test is defined" if smallest is None else f"smallest adjusted p {smallest:.2f}"
        said += f" No significant difference with {patients} patients ({shown})."
    return said


def _oriented(pair: Document, first: str, second: str) -> tuple[str, float, float | None] | None:
    """Return aggregator, difference (first minus second) and adjusted p if the pair compares these two models."""
    if {pair["first"], pair["second"]} != {first, second}:
        return None
    sign = 1 if pair["first"] == first else -1
    return pair["aggregator"], sign * pair["metrics"][METRIC]["difference"], pair["adjusted_p"].get(TEST)


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
