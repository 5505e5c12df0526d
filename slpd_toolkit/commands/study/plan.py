"""`slpd study --plan`: the steps with estimates, and the equivalent commands or cluster jobs."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.commands.study.needs import (
    MIB,
    Need,
    Tokens,
    need_of_evaluation,
    need_of_pictures,
    need_of_training,
)
from slpd_toolkit.commands.study.slurm import write_jobs
from slpd_toolkit.commands.study.stages import make_stages
from slpd_toolkit.config import study_stages
from slpd_toolkit.config.auto_recipe import CohortSize
from slpd_toolkit.config.command_line import command_line
from slpd_toolkit.config.study_stages import EMBED, HELD_OUT, INSIDE, PART, StagePaths
from slpd_toolkit.core import console
from slpd_toolkit.core.text import count
from slpd_toolkit.ingest.embedding.estimate import estimate_embedding, peak_mib
from slpd_toolkit.store.selection import select_slides
from slpd_toolkit.store.token_file import TokenStore
from slpd_toolkit.training.estimate import TrainingEstimate, estimate_training
from slpd_toolkit.training.fitting import choose_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.commands.study.cohort import StudyCohort
    from slpd_toolkit.commands.study.stages import Stage
    from slpd_toolkit.config.study import StudyConfig


def print_plan(config: StudyConfig, cohort: StudyCohort, tables: Sequence[str]) -> int:
    """Measure a sample, print the plan, and write job scripts if they are wanted.

    Returns:
        0.

    Raises:
        UsageError: No slide of the sample can be embedded, or a stage cannot run on a cohort of this size.
    """
    paths = StagePaths.of(config)
    cached = config.cache is not None or (paths.cache.is_dir() and any(paths.cache.glob("*.h5")))
    needs: dict[str, Need] = {}
    with console.step("plan"):
        if cached:
            tokens = _of_cache(paths)
        else:
            tokens, needs[EMBED] = _of_sample(config, cohort)
        stages = make_stages(config, cohort, tables, planned=True)
        needs |= _needs(config, stages, tokens)
    if cached and config.cache is None:
        needs[EMBED] = Need(0, 0, 0)
    _print(config, cohort, stages, needs, tokens)
    if config.plan == "slurm":
        folder = write_jobs(config, stages, {name: (need.seconds, need.memory_mib) for name, need in needs.items()})
        console.note(f"Job scripts: {folder}. Submit all of them with: bash {folder / 'submit.sh'}")
    return 0


def _of_cache(paths: StagePaths) -> Tokens:
    store = TokenStore.open(paths.cache)
    lengths = [len(file) for file in store.files]
    inside = [len(file) for file in select_slides(store, paths.manifest, (f"{PART}={INSIDE}",)).files]
    source = f"{count(len(lengths), 'slide')} in {paths.cache}"
    return Tokens(inside, sum(lengths), store.grid, store.embedding_dim, source)


def _of_sample(config: StudyConfig, cohort: StudyCohort) -> tuple[Tokens, Need]:
    found = estimate_embedding(study_stages.embedding(config))
    for message in found.failed:
        console.warn(f"In the sample, a slide cannot be embedded: {message}")
    inside = int((cohort.table[PART] != HELD_OUT).sum())
    tokens = Tokens(
        np.resize(found.regions, inside).tolist(),
        found.total_regions,
        found.grid,
        found.embedding_dim,
        f"a sample of {count(found.sampled, 'slide')}: {float(np.mean(found.regions)):.1f} regions per slide, "
        f"{found.read_s * 1000:.1f} ms to read and {found.encode_s * 1000:.1f} ms to encode a patch",
    )
    return tokens, Need(found.seconds, found.disk_bytes, found.peak_mib)


def _needs(config: StudyConfig, stages: Sequence[Stage], tokens: Tokens) -> dict[str, Need]:
    cores = config.jobs or os.cpu_count() or 1
    regions, runs, needs = int(np.sum(tokens.regions)), list[TrainingEstimate](), dict[str, Need]()
    for stage in stages:
        if stage.command == "pretrain":
            fitted, _ = choose_for(stage.settings(), CohortSize(tokens.regions, tokens.grid))
            runs.append(estimate_training(fitted, regions, tokens.grid, tokens.width))
            needs[stage.name] = need_of_training(runs[-1], peak_mib())
        elif stage.command == "mil-eval":
            needs[stage.name] = need_of_evaluation(stage.settings(), tokens, runs, peak_mib(), cores)
        elif stage.command in {"prototypes", "heatmap"}:
            slides = min(config.heatmaps, len(tokens.regions))
            needs[stage.name] = need_of_pictures(stage.command, slides, peak_mib(), cores)
    return needs


def _print(
    config: StudyConfig, cohort: StudyCohort, stages: Sequence[Stage], needs: dict[str, Need], tokens: Tokens
) -> None:
    inside, held_out = cohort.patients
    console.note(
        f"{count(len(cohort.table), 'slide')}; {count(inside, 'patient')} in cross-validation, {held_out} held out. "
        f"Estimated from {tokens.source}, on this machine; expect the actual time within a factor of two."
    )
    rows = [
        {
            "step": stage.name,
            "time": console.human_seconds(needs[stage.name].seconds),
            "disk": console.human_bytes(needs[stage.name].disk_bytes),
            "memory": console.human_bytes(needs[stage.name].memory_mib * MIB),
            "state": "done" if stage.is_done() else "",
        }
        for stage in stages
    ]
    rows.append(
        {
            "step": "all",
            "time": console.human_seconds(sum(need.seconds for need in needs.values())),
            "disk": console.human_bytes(sum(need.disk_bytes for need in needs.values())),
            "memory": console.human_bytes(max(need.memory_mib for need in needs.values()) * MIB),
            "state": "",
        }
    )
    console.table("Plan", rows)
    console.text(["# The same steps as separate commands, with this plan's files. The last command writes index.html:"])
    for stage in stages:
        console.text([stage.command_line(), ""])
    console.text([command_line("study", replace(config, plan=None), ("manifest",))])
