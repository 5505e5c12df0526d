"""What the stages of a study need: the arithmetic of its plan, from measured steps and sizes of networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slpd_toolkit.config.mil_eval import AGGREGATORS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.config.mil_eval import MilEvalConfig
    from slpd_toolkit.training.estimate import TrainingEstimate

MIB = 2**20
_KIB = 2**10
_CPU_S_A_HEAD, _CPU_S_A_HEAD_AND_THOUSAND = 0.6, 4.0
"""Training of a head: benchmarks/results/mil-cpu.json has 38.7 CPU seconds for 10 heads on 1 000 slides."""
_CPU_S_A_MODEL, _CPU_S_A_PICTURE = 5.0, 1.5
_COPIES_IN_CHECKPOINT = 4
"""Values of last.pt per parameter: student, teacher, and two moments of the optimizer."""
_FP32 = 4
_CURVES_BYTES, _REPORT_BYTES, _BUNDLE_BYTES = 128 * _KIB, 2 * MIB, 32 * _KIB
_HIDDEN = 64
"""Width of the first layer of the aggregators that are networks."""
_ATLAS_BYTES, _HEATMAP_BYTES = 64 * _KIB, 1.4 * MIB
"""Per slide: crops of its prototypes; a heatmap next to its slide."""


@dataclass(frozen=True)
class Need:
    """What a stage needs."""

    seconds: float
    disk_bytes: float
    memory_mib: float


@dataclass(frozen=True)
class Tokens:
    """The tokens of the cohort: of the cache, or estimated."""

    regions: Sequence[int]
    """Regions of each slide that is trained on."""
    all_regions: int
    grid: int
    width: int
    source: str


def need_of_training(found: TrainingEstimate, memory_mib: float) -> Need:
    """Return the needs of a pretraining run: last.pt, region_vit.pt and curves.svg."""
    values = _COPIES_IN_CHECKPOINT * found.parameters + found.backbone_parameters
    return Need(found.seconds, values * _FP32 + _CURVES_BYTES, memory_mib + values * _FP32 / MIB)


def need_of_evaluation(
    settings: MilEvalConfig, tokens: Tokens, runs: Sequence[TrainingEstimate], memory_mib: float, cores: int
) -> Need:
    """Return what an evaluation needs, in cross-validation and on held-out patients.

    Args:
        settings: Its settings.
        tokens: Tokens of the cohort.
        runs: The runs that it evaluates in addition to other models.
        memory_mib: Memory of a process before it reads anything.
        cores: Number of processes.
    """
    slides, models, folds = len(tokens.regions), len(settings.model), settings.folds or 5
    a_head = max(_CPU_S_A_HEAD, _CPU_S_A_HEAD_AND_THOUSAND * slides / 1000)
    repeats = {name: settings.repeats_of(name) for name in settings.aggregator}
    heads = sum(repeats.values()) * folds
    cpu_s = models * (_CPU_S_A_MODEL + heads * a_head)
    embedding_s = sum(tokens.all_regions * run.embed_s for run in runs)
    head_values = sum(
        count * folds * tokens.width * (_HIDDEN if has_attention(name) else 2) for name, count in repeats.items()
    )
    copies = len(repeats) * sum(run.backbone_parameters for run in runs)  # each bundle contains its region ViT
    bundles = models * (head_values * _FP32 + len(repeats) * _BUNDLE_BYTES) + copies * _FP32
    vectors = tokens.all_regions * tokens.width * _FP32
    return Need(cpu_s / cores + embedding_s, vectors + bundles + _REPORT_BYTES, memory_mib + models * vectors / MIB)


def need_of_pictures(command: str, slides: int, memory_mib: float, cores: int) -> Need:
    """Return what the atlas (`prototypes`) or the heatmaps (`heatmap`) of some slides need."""
    a_slide = _HEATMAP_BYTES if command == "heatmap" else _ATLAS_BYTES
    return Need(slides * _CPU_S_A_PICTURE / cores, slides * a_slide, memory_mib)


def has_attention(aggregator: str) -> bool:
    """Return whether an aggregator is a network that weights regions."""
    return bool(AGGREGATORS.load(aggregator).HEAD.in_workers)
