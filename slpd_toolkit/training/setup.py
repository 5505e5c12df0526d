"""Building a run from settings and a token cache, or restoring it from its folder."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.config.terms import objective_terms
from slpd_toolkit.core import compute, console
from slpd_toolkit.core.errors import CacheError, UsageError
from slpd_toolkit.core.text import agree, count
from slpd_toolkit.models.network import RegionNetwork
from slpd_toolkit.models.region_vit import REGION_VIT
from slpd_toolkit.objectives.slpd import Slpd
from slpd_toolkit.store.centered_tokens import CenteredTokens
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.schema import COHORT_FIELDS
from slpd_toolkit.store.selection import select_slides
from slpd_toolkit.store.stain_views import StainTokens, open_stain_views
from slpd_toolkit.store.streaming import in_parts
from slpd_toolkit.store.token_file import TokenStore
from slpd_toolkit.training.checkpoint import describe_cohort, load_checkpoint
from slpd_toolkit.training.epoch_prototypes import make_prototypes
from slpd_toolkit.training.fitting import fit_to_cohort
from slpd_toolkit.training.metrics_file import columns
from slpd_toolkit.training.prototype_file import describe_prototypes
from slpd_toolkit.training.run import Run
from slpd_toolkit.training.run_folder import PROTOTYPES, RunCohort, RunFolder
from slpd_toolkit.training.sampling import Stream, generator, read_batches
from slpd_toolkit.training.state import TrainingState, make_state
from slpd_toolkit.training.step_plan import Plan, make_plan
from slpd_toolkit.training.token_statistics import sample_tokens
from slpd_toolkit.training.token_whitening import WHITENINGS
from slpd_toolkit.training.view_source import ViewSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from slpd_toolkit.config.pretrain import PretrainConfig
    from slpd_toolkit.training.processes import Processes
    from slpd_toolkit.training.signals import StopRequest


@dataclass(frozen=True)
class RegionRun(Run):
    """A run of `slpd pretrain`."""

    store: TokenStore
    tokens: CohortTokens
    stained: StainTokens | None = None
    """The same regions under all stains; None without stain views."""

    def batches(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield the batches of the remaining steps; see `read_batches`."""
        pin = self.state.device.type == "cuda"
        tokens = self.stained or self.tokens
        return read_batches(tokens, self.plan.schedule, self.steps, workers=self.config.running.workers, pin_memory=pin)

    def prepare_epoch(self, epoch: int) -> bool:
        """Rebuild the prototypes in epochs that have them.

        Raises:
            Stopped: The run was asked to stop; the state was saved at the end of the previous epoch.
        """
        config = self.config
        if not config.uses_prototypes or epoch < config.prototypes.prototype_epoch:
            return False
        self.rebuild_prototypes()
        return True

    def rebuild_prototypes(self) -> None:
        """Cluster and match the cohort with the current teacher, and write prototypes.h5.

        Raises:
            Stopped: The run was asked to stop; nothing has changed.
        """
        state = self.state
        bank, bottleneck = make_prototypes(self.config, state.slpd.teacher, self.tokens, self.processes, self.stop)
        state.progress.bank = bank
        if self.processes.first:
            describe_prototypes(self.store, bank, bottleneck, state.progress.step).write(self.folder.path / PROTOTYPES)
        health = bank.quality()
        self.say(
            f"Prototypes of {count(len(bank.slides), 'slide')}: clusters of {health.smallest} to {health.largest} "
            f"regions, median {health.median:g}; {health.empty:.1%} empty, {health.degenerate:.1%} degenerate."
        )

    def slides_with_prototypes(self) -> int:
        """Count the slides that have enough regions for prototypes."""
        return _count_eligible(self.config, self.store)

    def close(self) -> None:
        """Release files."""
        (self.stained or self.tokens).close()
        super().close()


def build_run(config: PretrainConfig, processes: Processes, stop: StopRequest) -> RegionRun:
    """Build a run, or restore the one in `config.out`.

    Raises:
        UsageError: The cache, the settings or an earlier run in the folder do not match.
        CacheError: The cache is empty, inconsistent, damaged, or can no longer be read.
        WeightsError: The weights of `--init` do not match the network.
        Stopped: The run was asked to stop.
    """
    device = processes.device
    precision = compute.resolve_precision(config.running.precision, device)
    store = select_slides(TokenStore.open(config.cache), config.slides.manifest, config.slides.where)
    if store.lengths.sum():
        say = console.note if processes.first else (lambda _: None)
        config = fit_to_cohort(config, store, processes.world, say)
    _check_cohort(config, store)
    plan = make_plan(config, int(store.lengths.sum()), processes)
    slpd = Slpd(config.objective, _build_student(config, store.embedding_dim)).to(device)
    state = make_state(slpd, device, precision, grouped=processes.joined)
    views = open_stain_views(store, config.augmentation.stain_views)
    slides = {slide.meta.slide_id: len(slide) for slide in store.files}
    provenance = {name: getattr(store.meta, name) for name in COHORT_FIELDS}
    cohort = RunCohort("; stain view ".join(describe_cohort(each) for each in (store, *views)), slides, provenance)
    folder = RunFolder(config.out, config, precision, cohort, processes, REGION_VIT, (PROTOTYPES,))
    folder.claim()
    tokens = _open_tokens(config, store)
    stained = StainTokens(store, [tokens, *(_open_tokens(config, view) for view in views)]) if views else None
    if config.region_vit.whitening != "none" and not folder.checkpoint.exists():
        processes.unless_stopped(stop, lambda: _whiten(config, slpd, store))
    if folder.checkpoint.exists():
        state.progress = load_checkpoint(folder, state)
    else:
        processes.unless_stopped(stop, lambda: _check_tokens(stained or tokens, processes, stop))
    source = _view_source(config, tokens, plan, store.grid, state)
    folder.open(state.progress.step, columns(), tensorboard=config.running.tensorboard)
    return RegionRun(config, processes, stop, plan, state, source, folder, store, tokens, stained)


def _open_tokens(config: PretrainConfig, store: TokenStore) -> CohortTokens:
    tokens = CohortTokens(store)
    return CenteredTokens(store, tokens) if config.region_vit.centering == "slide" else tokens


def announce(run: RegionRun) -> None:
    """Print a summary of the run before it starts."""
    config, store, step = run.config, run.store, run.state.progress.step
    run.say(
        f"{count(len(store.files), 'slide')}, {count(len(run.tokens), 'region')} of {store.grid} x {store.grid} tokens "
        f"({store.meta.encoder}, {store.embedding_dim}-d); {run.state.precision} on "
        f"{compute.describe(run.state.device)}"
        + (f", {run.processes.world} processes" if run.processes.world > 1 else "")
    )
    if step:
        run.say(f"Resuming at step {step:,} of {run.plan.steps:,}.")
    first = config.prototypes.prototype_epoch
    if config.uses_prototypes:
        run.say(f"Prototypes from epoch {first}: {config.prototypes.clusters} per slide.")
    elif config.objective.uses_prototypes:  # a recipe's value, with fewer epochs set by a flag
        run.say(
            f"No prototypes: --prototype-epoch {first} (counted from 0) is not reached with --epochs {config.epochs}. "
            "Only self-distillation will be trained; SLPD needs a smaller --prototype-epoch."
        )


def _check_cohort(config: PretrainConfig, store: TokenStore) -> None:
    """Check, before any work, that the cache meets the requirements of the settings."""
    grid = store.grid
    if not store.lengths.sum():
        raise CacheError(
            f"Token cache {config.cache}: none of its slides ({len(store.files):,}) has regions.",
            hint="Embed slides with tissue, or lower --min-tissue of `slpd embed`.",
        )
    if config.crops.global_side > grid:
        large, small = (max(1, round(grid * side / 16)) for side in (14, 6))
        raise UsageError(
            f"--global-side: crops of {config.crops.global_side} tokens do not fit into regions of {grid} x {grid}.",
            hint=f"HIPT and SLPD crop 14 and 6 of 16 tokens; here that is --global-side {large} --local-side {small}.",
        )
    least, neighbours = config.prototypes.min_regions, config.prototypes.neighbours
    usable = _count_eligible(config, store)
    off = [f"{term.flag} 0" for term in objective_terms() if term.needs_prototypes]
    if config.uses_prototypes and usable <= neighbours:
        raise UsageError(
            f"{usable} of {count(len(store.files), 'slide')} {agree(usable, 'has', 'have')} at least --min-regions "
            f"({least}) regions; --neighbours {neighbours} requires {neighbours + 1}.",
            hint=f"The median slide has {int(np.median(store.lengths))} regions: lower --min-regions, or train without "
            f"prototypes ({' '.join(off)}).",
        )


def _count_eligible(config: PretrainConfig, store: TokenStore) -> int:
    return int((store.lengths >= config.prototypes.least_regions).sum())


def _build_student(config: PretrainConfig, input_dim: int) -> RegionNetwork:
    weights = generator(config.running.seed, Stream.WEIGHTS)
    student = RegionNetwork(
        config.region_vit,
        config.dino_head,
        weights,
        input_dim=input_dim,
        grid=config.crops.global_side,
        masks=config.objective.uses_masks,
    )
    if config.init is not None:
        student.backbone.load_file(config.init)
    return student


def _whiten(config: PretrainConfig, slpd: Slpd, store: TokenStore) -> None:
    """Estimate the map of tokens, unless the initial weights have one. All processes estimate the same map."""
    if slpd.student.backbone.phi.has_map:
        return
    estimate, centered = WHITENINGS[config.region_vit.whitening], config.region_vit.centering == "slide"
    with closing(CohortTokens(store)) as tokens:
        found = estimate(tokens, store, generator(config.running.seed, Stream.WHITENING), centered=centered)
    for network in (slpd.student, slpd.teacher):
        network.backbone.phi.set_map(*found)


def _check_tokens(tokens: CohortTokens, processes: Processes, stop: StopRequest) -> None:
    """Read every region once, so that damaged files are found before training rather than hours into it."""
    share = processes.share(len(tokens))
    regions = np.arange(share.start, share.stop)
    with console.progress("check tokens", total=len(regions), unit="regions", shown=processes.first) as bar:
        for part in in_parts(regions):
            tokens.read(part)
            bar.advance(len(part))
            stop.leave_if_asked()


def _view_source(
    config: PretrainConfig, tokens: CohortTokens, plan: Plan, grid: int, state: TrainingState
) -> ViewSource:
    present = tokens.present(np.arange(len(tokens)))
    statistics = None
    if config.augmentation.needs_statistics:
        statistics = sample_tokens(tokens, generator(config.running.seed, Stream.SPREAD)).to(state.device)
    return ViewSource(
        config.crops,
        config.augmentation,
        plan.schedule,
        grid,
        state.device,
        None if present is None else present.to(state.device),
        statistics,
        masks=config.objective.uses_masks,
    )
