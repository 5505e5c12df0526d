"""The arithmetic of `slpd study --plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slpd_toolkit.commands.study.needs import MIB, Tokens, need_of_evaluation, need_of_pictures, need_of_training
from slpd_toolkit.config.mil_eval import MilEvalConfig
from slpd_toolkit.config.pretrain import PretrainConfig
from slpd_toolkit.config.recipe import build
from slpd_toolkit.ingest.embedding.estimate import EmbeddingEstimate
from slpd_toolkit.training.estimate import TrainingEstimate, estimate_training

RUN = TrainingEstimate(
    step_s=0.5, embed_s=0.01, steps=100, embedded=50, parameters=1_000_000, backbone_parameters=250_000
)
TOKENS = Tokens([10] * 20, 250, 4, 100, "a test")


def evaluation(**changes: Any) -> MilEvalConfig:
    given: dict[str, Any] = {"aggregator": ("knn", "abmil"), "folds": 4, "repeats": 3, "model": ("a", "b", "c")}
    return MilEvalConfig(cache=Path("c"), manifest=Path("m"), out=Path("o"), **(given | changes))


def test_a_run_takes_its_steps_and_keeps_its_networks_and_the_optimizer() -> None:
    need = need_of_training(RUN, 500.0)
    assert need.seconds == pytest.approx(100 * 0.5 + 50 * 0.01)
    assert need.disk_bytes == 4 * (4 * 1_000_000 + 250_000) + 128 * 1024
    assert need.memory_mib == pytest.approx(500 + 4 * 4_250_000 / MIB)


def test_an_evaluation_grows_with_its_heads_models_and_regions() -> None:
    need = need_of_evaluation(evaluation(), TOKENS, [RUN, RUN], 500.0, cores=2)
    heads = (3 + 3) * 4
    assert need.seconds == pytest.approx(3 * (5 + heads * 0.6) / 2 + 2 * 250 * 0.01)
    vectors = 250 * 100 * 4
    bundles = 3 * (4 * 100 * 3 * 4 * (2 + 64) + 2 * 32 * 1024) + 2 * (2 * 250_000) * 4
    assert need.disk_bytes == vectors + bundles + 2 * MIB
    assert need.memory_mib == pytest.approx(500 + 3 * vectors / MIB)
    alone = need_of_evaluation(evaluation(model=("a",)), TOKENS, [], 500.0, cores=2)
    assert alone.seconds == pytest.approx((5 + heads * 0.6) / 2)
    thousand = need_of_evaluation(evaluation(), Tokens([10] * 1000, 10_000, 4, 100, ""), [], 500.0, cores=1)
    assert thousand.seconds == pytest.approx(3 * (5 + heads * 4.0))


def test_heatmaps_are_larger_than_the_atlas() -> None:
    atlas, heatmaps = (need_of_pictures(command, 12, 500.0, cores=2) for command in ("prototypes", "heatmap"))
    assert atlas.seconds == heatmaps.seconds == pytest.approx(12 * 1.5 / 2)
    assert atlas.disk_bytes == 12 * 64 * 1024
    assert heatmaps.disk_bytes == pytest.approx(12 * 1.4 * MIB)


def test_the_networks_are_those_of_the_run() -> None:
    """A region ViT of width 8 with one block, and its head, counted by hand."""
    given: dict[str, Any] = {"cache": Path("c"), "out": Path("r"), "device": "cpu", "batch_size": 2, "epochs": 1}
    sizes = {"embed_dim": 8, "depth": 1, "heads": 1, "mlp_ratio": 2.0, "hidden_dim": 16, "bottleneck_dim": 4}
    few = {"out_dim": 32, "global_side": 2, "local_side": 1, "local_crops": 1, "warmup_epochs": 1, "clusters": 2}
    config = build(PretrainConfig, {**given, **sizes, **few, "prototype_epoch": 0})
    found = estimate_training(config, 6, 2, 5)
    block = 2 * 16 + (8 * 24 + 24) + (8 * 8 + 8) + (8 * 16 + 16) + (16 * 8 + 8)  # norms, qkv, projection, MLP
    backbone = (5 * 8 + 8) + 8 + (1 + 4) * 8 + block + 16  # projection of tokens, class token, positions, norm
    assert found.backbone_parameters == backbone
    head = (8 * 16 + 16) + (16 * 16 + 16) + (16 * 4 + 4) + 4 * 32  # three layers, and the weight-normalized last one
    assert head <= found.parameters - found.backbone_parameters <= head + 32
    assert found.steps == 3
    assert found.embedded == 2 * 6


@pytest.mark.parametrize(("on_cpu", "seconds"), [(True, 100 / 2 + 8000 * 0.01 / 2 + 8000 * 0.05), (False, 8000 * 0.05)])
def test_embedding_reads_and_encodes_every_patch(on_cpu: bool, seconds: float) -> None:
    """On a GPU, reading takes place while patches are encoded."""
    found = EmbeddingEstimate(
        slides=100, sampled=4, failed=(), regions=(3, 5, 4, 8), grid=4, embedding_dim=10, open_s=1.0, read_s=0.01,
        encode_s=0.05, on_cpu=on_cpu, workers=2, peak_mib=500.0,
    )  # fmt: skip
    assert found.total_regions == 500
    assert found.seconds == pytest.approx(seconds)
    assert found.disk_bytes == 500 * 16 * 10 * 2 + 100 * 16 * 1024
