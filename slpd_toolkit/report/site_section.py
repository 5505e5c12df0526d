"""Site effects in words and tables, for the report and the terminal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slpd_toolkit.core.figures.number_format import number
from slpd_toolkit.core.text import count
from slpd_toolkit.mil.statistics.site_effects import WORDS
from slpd_toolkit.report.wording import signed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slpd_toolkit.mil.statistics.bootstrap import Estimate
    from slpd_toolkit.mil.statistics.site_effects import Measured, SiteEffects

_MEANING = {
    "site_accuracy": "A representation from which the site is predicted well contains stain, scanner and laboratory, "
    "so a head can use them instead of tissue. This is harmful where classes are distributed unequally over sites, "
    "and at new sites.",
    "robustness_index": "A robustness index below its value by chance means that sharing a site makes slides more "
    "similar than sharing a class does.",
    "auc_within": "An AUC that is higher across sites than within them, or with random folds than with folds by site, "
    "is partly due to sites: at a new site, expect the value within sites, or by site.",
}
"""What the measurements mean, by the first name of each kind."""


@dataclass(frozen=True)
class SiteSection:
    """The section on site effects."""

    names: Sequence[str]
    """Headings of the measurements that at least one representation has."""
    rows: Sequence[tuple[str, Sequence[Sequence[str]]]]
    """Model, and the cell of each measurement: value, interval, and value by chance. Lines break between them."""
    findings: Sequence[str]
    """One sentence per representation, and what could not be measured."""
    meaning: str
    """A paragraph on what the measurements mean."""


def site_section(effects: Sequence[SiteEffects]) -> SiteSection:
    """Describe site effects."""
    names = [name for name in WORDS if any(name in each.values for each in effects)]
    rows = [(each.model, [_cell(name, each.values) for name in names]) for each in effects]
    return SiteSection([WORDS[name] for name in names], rows, findings(effects), meaning(effects))


def meaning(effects: Sequence[SiteEffects]) -> str:
    """Return a paragraph on what the measurements that were made mean; empty if there are none."""
    return " ".join(text for name, text in _MEANING.items() if any(name in each.values for each in effects))


def findings(effects: Sequence[SiteEffects]) -> list[str]:
    """Return a sentence per representation on what was found, and sentences on what has no interval or no value."""
    said = [f"{each.model}: {'; '.join(_found(each.values))}." for each in effects if each.values]
    without = [found.estimate.reason for each in effects for found in each.values.values() if found.estimate.reason]
    reasons = [reason for each in effects for reason in each.reasons.values()]
    return said + list(dict.fromkeys([*without, *reasons]))


def terminal_rows(effects: Sequence[SiteEffects]) -> list[dict[str, object]]:
    """Return a row per representation and measurement."""
    return [
        {
            "model": each.model,
            "measured": WORDS[name],
            "value": _number(name, each.values[name].estimate.value),
            "95 % interval": _interval(name, each.values[name].estimate),
            "chance": "-" if math.isnan(each.values[name].chance) else number(each.values[name].chance),
        }
        for each in effects
        for name in WORDS
        if name in each.values
    ]


def _found(values: Mapping[str, Measured]) -> list[str]:
    parts = []
    if "site_accuracy" in values:
        found = values["site_accuracy"]
        which = "not predicted better than by chance," if found.estimate.low <= found.chance else "predicted"
        parts.append(
            f"the site is {which} with a balanced accuracy of {number(found.estimate.value)} over "
            f"{count(round(1 / found.chance), 'site')} (chance {number(found.chance)})"
        )
    if "robustness_index" in values:
        found, which = values["robustness_index"], "not distinguishable from its value by chance"
        if found.estimate.low > found.chance:
            which = "above its value by chance: sharing a class makes slides more similar than sharing a site"
        elif found.estimate.high < found.chance:
            which = "below its value by chance: sharing a site makes slides more similar than sharing a class"
        parts.append(f"the robustness index is {number(found.estimate.value)} (chance {number(found.chance)}), {which}")
    if "auc_within" in values:
        within, across = values["auc_within"].estimate.value, values["auc_across"].estimate.value
        parts.append(f"AUC {number(within)} within sites and {number(across)} across")
    if "auc_gap" in values:
        gap = values["auc_gap"].estimate
        shown = "" if gap.low > 0 else ", which is not distinguishable from none"
        if gap.low > 0 or gap.value > 0:
            parts.append(f"{number(gap.value)} of the AUC with random folds is lost with folds by site{shown}")
        else:
            parts.append("the AUC is not lower with folds by site")
    return parts


def _cell(name: str, values: Mapping[str, Measured]) -> list[str]:
    if name not in values:
        return ["–"]
    found = values[name]
    parts = [_number(name, found.estimate.value), _interval(name, found.estimate)]
    return parts if math.isnan(found.chance) or found.chance == 0.5 else [*parts, f"chance {number(found.chance)}"]


def _number(name: str, value: float) -> str:
    return signed(value) if name == "auc_gap" else number(value)


def _interval(name: str, found: Estimate) -> str:
    if math.isnan(found.low):
        return "–"
    return f"[{_number(name, found.low)}, {_number(name, found.high)}]"
