"""Settings that a run chooses from its cohort, and a verdict on its loss at the end."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from slpd_toolkit.config.auto_recipe import IF_SMALL, Choice, CohortSize, choose_settings
from slpd_toolkit.config.pretrain import PretrainConfig
from slpd_toolkit.config.recipe import RECIPE, read_recipe
from slpd_toolkit.config.settings import assemble, flatten
from slpd_toolkit.core.text import count

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from slpd_toolkit.store.token_file import TokenStore

_UNIFORM, _NEAR_UNIFORM, _COLLAPSED_NATS = 0.97, 0.9, 0.02


def fit_to_cohort(
    config: PretrainConfig, store: TokenStore, processes: int, say: Callable[[str], None]
) -> PretrainConfig:
    """Return the settings with all values of `auto`; those of an earlier run in the folder are kept.

    Args:
        config: Settings; returned as they are if nothing is to be chosen.
        store: Slides of the run.
        processes: Number of processes.
        say: Prints a line.

    Raises:
        UsageError: The chosen values do not fit the given ones, or the recipe of the earlier run cannot be read.
    """
    if not config.auto:
        return config
    size = CohortSize([int(count) for count in store.lengths], store.grid, processes)
    written = config.out / RECIPE
    if written.exists() and (config.out / "last.pt").exists():
        kept = read_recipe(PretrainConfig, written)
        return _with(config, {name: kept[name] for name in config.auto if name in kept})
    if IF_SMALL in config.auto and size.is_small:
        say(
            f"Small cohort ({count(size.total, 'region')}): with the published settings, the loss would barely fall "
            "below that of uniform predictions. The following settings are used instead; pass --recipe nsclc (or brca) "
            "for the published ones."
        )
    fitted, chosen = choose_for(config, size)
    for name, choice in chosen.items():
        say(f"  {name} = {choice.value}: {choice.reason}")
    return fitted


def choose_for(config: PretrainConfig, size: CohortSize) -> tuple[PretrainConfig, dict[str, Choice]]:
    """Return the settings with all values of `auto` for a cohort of this size, and the chosen values.

    Raises:
        UsageError: The chosen values do not fit the given ones.
    """
    if not config.auto:
        return config, {}
    if IF_SMALL in config.auto and not size.is_small:
        return _with(config, {}), {}
    choices = choose_settings(replace(size, given=_given(config)))
    chosen = {name: choices[name] for name in choices if name in config.auto}
    return _with(config, {name: choice.value for name, choice in chosen.items()}), chosen


def _with(config: PretrainConfig, values: Mapping[str, Any]) -> PretrainConfig:
    """Return the settings with these values for `auto`, and the defaults for the rest of it."""
    return assemble(PretrainConfig, {**_given(config), **values, "auto": ()})


def _given(config: PretrainConfig) -> dict[str, Any]:
    return {name: value for name, value in flatten(config).items() if name not in config.auto}


def verdict(last: Mapping[str, str], outputs: int) -> str:
    """Describe a run whose loss shows that it has not learned, and what to change; empty if it has.

    Args:
        last: Last row of metrics.csv.
        outputs: Outputs of the DINO head, O; uniform predictions have a loss of ln O.
    """
    loss, entropy = float(last.get("dino") or 0), float(last.get("target_entropy") or math.nan)
    uniform = math.log(outputs)
    if loss > _UNIFORM * uniform or entropy > _UNIFORM * uniform:
        return (
            f"The network has learned almost nothing: self-distillation ended at a loss of {loss:.2f} and targets with "
            f"an entropy of {entropy:.2f}; uniform predictions over {count(outputs, 'output')} have {uniform:.2f}. "
            "Lower --teacher-temp (0.02), train longer (--epochs), raise --lr, or use fewer outputs (--out-dim)."
        )
    if loss > _NEAR_UNIFORM * uniform:
        return (
            f"The network may have learned little: self-distillation ended at a loss of {loss:.2f}, close to the "
            f"{uniform:.2f} of uniform predictions over {outputs:,} outputs. Train longer (--epochs) or lower "
            "--teacher-temp (0.02), and compare with --model mean-tokens in slpd mil-eval."
        )
    if loss < _COLLAPSED_NATS and entropy < _COLLAPSED_NATS:
        return (
            f"The targets have collapsed: all regions get the same output (loss {loss:.3f}, entropy of targets "
            f"{entropy:.3f} nats). Raise --teacher-temp (0.04), lower --lr, or raise --teacher-momentum."
        )
    return ""
