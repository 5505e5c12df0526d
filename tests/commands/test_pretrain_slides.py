"""`slpd pretrain-slides`: a run, its resume, and its use as a model."""

from __future__ import annotations

import random
import signal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from slpd_toolkit.commands import heatmap, pretrain_slides, represent
from slpd_toolkit.config.heatmap import HeatmapConfig
from slpd_toolkit.config.pretrain_slides import PretrainSlidesConfig
from slpd_toolkit.config.recipe import build
from slpd_toolkit.config.region_vit import RegionViTConfig
from slpd_toolkit.config.represent import RepresentConfig
from slpd_toolkit.core.errors import UsageError, WeightsError
from slpd_toolkit.models.region_vit import RegionViT
from slpd_toolkit.models.slide_vit import SlideRegions, SlideViT
from slpd_toolkit.report.scores import read_scores
from slpd_toolkit.representations.region_embeddings import embed_regions
from slpd_toolkit.representations.sources import Kind, parse_sources
from slpd_toolkit.store.token_file import TokenStore
from slpd_toolkit.training import state
from slpd_toolkit.training.metrics_file import columns, read_metrics
from slpd_toolkit.training.recorder import Recorder
from tests.token_factory import write_cache
from tests.training.processes import exit_code, start, start_two
from tests.training.runs import assert_close_runs, checkpoint, differences, metrics, sgd

if TYPE_CHECKING:
    from pathlib import Path

TINY: dict[str, Any] = {
    "model": "mean-tokens", "epochs": 3, "batch_size": 2, "warmup_epochs": 1, "embed_dim": 8, "depth": 2, "heads": 2,
    "hidden_dim": 16, "bottleneck_dim": 8, "out_dim": 32, "lr": 0.05, "log_every": 2, "device": "cpu",
    "precision": "fp32", "workers": 1, "drop_path": 0.2, "slide_weight": 1.0, "region_weight": 1.0,
}  # fmt: skip
FILES_OF_FIRST_STEPS = (28, 64)
"""Events of files in the run folder, of a run that saves after every step."""
SLIDES = ("slide000", "slide001", "slide002", "slide003", "slide004")


def tiny(cache: Path, out: Path, **changes: Any) -> PretrainSlidesConfig:
    return build(PretrainSlidesConfig, {"cache": cache, "out": out, **TINY, **changes})


@pytest.fixture(scope="module")
def run(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "slides"
    assert pretrain_slides.run(tiny(cache, out)) == 0
    return out


@pytest.mark.slow
def test_a_run_has_all_files_and_runs_again_at_once(cache: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"slide_vit.pt", "last.pt", "metrics.csv", "recipe.toml", "slides.csv", "scores.h5", "curves.svg"}
    assert files <= {path.name for path in run.iterdir()}
    rows = read_metrics(run / "metrics.csv")
    assert tuple(rows[0]) == columns(("content", "slide", "region"), "slides")
    assert [int(row["step"]) for row in rows] == [2, 4, 6]
    assert all(float(row[name]) > 0 for row in rows for name in ("content", "slide", "region"))
    before = (run / "slide_vit.pt").read_bytes()
    assert pretrain_slides.run(tiny(cache, run)) == 0
    assert "is complete (6 steps)" in capsys.readouterr().err.replace("\n", " ")
    assert (run / "slide_vit.pt").read_bytes() == before


@pytest.mark.slow
def test_a_resumed_run_is_the_run_that_was_never_stopped(
    cache: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_step = Recorder.end_step

    def stop_at_3(recorder: Recorder, step: int, *rest: Any) -> bool:
        if step == 2:
            recorder._run.stop.exit_code = 143
        return end_step(recorder, step, *rest)

    with monkeypatch.context() as inside:
        inside.setattr(Recorder, "end_step", stop_at_3)
        assert pretrain_slides.run(tiny(cache, tmp_path / "out")) == 143
    assert checkpoint(tmp_path / "out")["step"] == 3
    assert pretrain_slides.run(tiny(cache, tmp_path / "out")) == 0
    assert differences(checkpoint(run), checkpoint(tmp_path / "out")) == []


@pytest.mark.slow
def test_a_run_killed_at_any_moment_equals_one_that_was_not(cache: Path, run: Path, tmp_path: Path) -> None:
    draw, config = random.Random(0), tiny(cache, tmp_path / "killed", save_every_min=0.0)
    codes: list[int | None] = []
    while not codes or codes[-1] == -signal.SIGKILL:
        event = draw.randint(*FILES_OF_FIRST_STEPS) if len(codes) < 2 else 0
        codes.append(exit_code(start(config, number=signal.SIGKILL, event=event)))
    assert codes[-1] == 0
    assert len(codes) > 2
    assert differences(checkpoint(run), checkpoint(config.out)) == []
    assert metrics(run) == metrics(config.out)
    shared = [torch.load(out / "slide_vit.pt", weights_only=True) for out in (run, config.out)]
    assert differences(*(each["state_dict"] for each in shared)) == []
    assert not list(config.out.glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"accumulate": 2, "batch_size": 2, "slide_weight": 0.0, "region_weight": 0.0}])
def test_two_processes_equal_one_with_twice_the_batch(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr(state, "make_optimiser", sgd)
    changes = {"batch_size": 1, "drop_path": 0.0, "lr": 20.0, "log_every": 1} | changes
    config = tiny(cache, tmp_path / "two", **changes)
    assert [exit_code(process) for process in start_two(config, plain_sgd=True)] == [0, 0]
    pretrain_slides.run(tiny(cache, tmp_path / "one", **changes | {"batch_size": 2 * config.batch_size}))
    assert_close_runs(tmp_path / "one", config.out)


@pytest.mark.slow
def test_other_settings_are_refused(cache: Path, run: Path) -> None:
    with pytest.raises(UsageError, match=r"other settings: hidden: 0\.3 in the run, now 0\.5"):
        pretrain_slides.run(tiny(cache, run, hidden=0.5))
    with pytest.raises(UsageError, match="more than the 5 slides"):
        pretrain_slides.run(tiny(cache, run.parent / "large", batch_size=6))


def test_its_vectors_are_the_regions_in_context_of_each_slide(cache: Path, run: Path, tmp_path: Path) -> None:
    made = represent.make(
        RepresentConfig(model=str(run), cache=cache, out=tmp_path / "v.parquet", as_="mean-sd", device="cpu")
    )
    network, _ = SlideViT.from_file(run)
    raw = embed_regions(TokenStore.open(cache), "mean-tokens", device="cpu")
    for slide in SLIDES:
        file = TokenStore.open(cache)[slide]
        values = torch.from_numpy(raw[slide] - raw[slide].mean(0))[None]
        places = torch.from_numpy(file.coords / file.meta.region_l0 + 0.5).float()[None]
        with torch.inference_mode():
            inside = network(SlideRegions(values, places, torch.ones(values.shape[:2], dtype=torch.bool)))[1][0].numpy()
        np.testing.assert_allclose(made[slide][0], np.r_[inside.mean(0), inside.std(0)], atol=1e-5)


@pytest.mark.slow
def test_its_attention_is_drawn(run: Path, tmp_path: Path) -> None:
    (table,) = read_scores(run / "scores.h5")
    assert (table.model, table.aggregator, table.slide_ids) == ("slides", "slide-vit", SLIDES)
    for index in range(len(SLIDES)):
        assert table.slide(index).scores.sum() == pytest.approx(1)
    assert heatmap.run(HeatmapConfig(scores=run, out=tmp_path / "maps", slide=("slide000",), jobs=1)) == 0
    assert (tmp_path / "maps" / "slide000.png").exists()


def test_a_run_is_a_model_with_any_descriptor(run: Path) -> None:
    plain, other = parse_sources([str(run), f"x={run}#mixture:3"])
    assert (plain.name, plain.kind, plain.descriptor and plain.descriptor.name) == ("slides", Kind.SLIDE_VIT, "mean-sd")
    assert (other.name, other.kind, other.descriptor and other.descriptor.clusters) == ("x", Kind.SLIDE_VIT, 3)


@pytest.mark.slow
def test_the_region_vit_travels_with_the_slide_vit(cache: Path, tmp_path: Path) -> None:
    vit = RegionViT(
        RegionViTConfig(embed_dim=12, depth=1, heads=2), torch.Generator().manual_seed(1), input_dim=8, grid=5
    )
    vit.save(tmp_path / "region_vit.pt")
    out = tmp_path / "out"
    assert pretrain_slides.run(tiny(cache, out, model=str(tmp_path / "region_vit.pt"), epochs=1)) == 0
    (tmp_path / "region_vit.pt").unlink()
    found = embed_regions(TokenStore.open(cache), str(out), device="cpu")
    assert found.values.shape == (30, 8)
    with pytest.raises(UsageError, match="differ from those in the cache"):
        embed_regions(
            TokenStore.open(write_cache(tmp_path / "other", (3, 4), encoder="another")), str(out), device="cpu"
        )


def test_a_file_without_its_model_of_regions_is_refused(cache: Path, run: Path, tmp_path: Path) -> None:
    network, _ = SlideViT.from_file(run)
    network.save(tmp_path / "slide_vit.pt", {})
    with pytest.raises(WeightsError, match="contains no region model"):
        embed_regions(TokenStore.open(cache), str(tmp_path), device="cpu")
    with pytest.raises(UsageError, match="is a slide ViT, which does not embed regions"):
        pretrain_slides.run(tiny(cache, tmp_path / "again", model=str(run)))
