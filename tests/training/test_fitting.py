"""Settings chosen from the cohort, kept by a resumed run, and the verdict on a run's loss."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import pytest

from slpd_toolkit.commands import pretrain
from slpd_toolkit.config.auto_recipe import CHOSEN, CohortSize, choose_settings
from slpd_toolkit.config.pretrain import PretrainConfig
from slpd_toolkit.config.recipe import build, read_recipe
from slpd_toolkit.config.settings import flatten
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.store.token_file import TokenStore
from slpd_toolkit.training.fitting import choose_for, fit_to_cohort, verdict
from tests.token_factory import write_cache
from tests.training.runs import run_until

REGIONS = [12 + 2 * (slide % 12) for slide in range(48)]


def chosen_for(regions: list[int], grid: int = 8, processes: int = 1) -> dict[str, object]:
    found = choose_settings(CohortSize(regions, grid, processes))
    return {name: choice.value for name, choice in found.items()}


def test_a_cohort_of_48_slides_gets_the_settings_that_work_on_planted_cohorts() -> None:
    found = chosen_for(REGIONS)
    assert sum(REGIONS) == 1104
    assert (found["batch_size"], found["epochs"], found["out_dim"]) == (64, 30, 256)
    assert (found["warmup_epochs"], found["prototype_epoch"], found["min_regions"]) == (3, 11, 16)
    assert (found["global_side"], found["local_side"], found["clusters"]) == (5, 3, 2)
    assert found["lr"] == pytest.approx(0.004)
    assert found["teacher_momentum"] == pytest.approx(0.98, abs=0.001)
    robust = read_recipe(PretrainConfig, Path("robust"))
    del robust["auto"]
    assert {name: found[name] for name in robust} == robust


def test_whitened_tokens_are_trained_for_half_as_long() -> None:
    plain, whitened = (
        choose_settings(CohortSize(REGIONS, 8, given={"whitening": name}))["epochs"]
        for name in ("none", "within-kinds")
    )
    assert (plain.value, whitened.value) == (59, 30)
    assert "with whitened tokens" in whitened.reason
    assert "whitened" not in plain.reason


def test_a_cohort_of_the_published_size_is_trained_as_published(tmp_path: Path) -> None:
    found, published = chosen_for([60] * 1000, grid=16), PretrainConfig(cache=tmp_path, out=tmp_path)
    assert found["epochs"] == published.epochs
    assert found["batch_size"] == published.batch_size
    assert found["lr"] == published.optimisation.lr
    assert found["teacher_momentum"] == published.optimisation.teacher_momentum
    assert (found["global_side"], found["local_side"], found["local_crops"]) == (14, 6, 8)
    assert found["prototype_epoch"] == published.prototypes.prototype_epoch
    assert not {"embed_dim", "whitening", "pooling", "intra_weight"} & found.keys()


@pytest.mark.parametrize("regions", [[1], [1, 1], [2, 3], [5] * 10, [20] * 40, [100] * 40, [500] * 30, [64] * 2000])
@pytest.mark.parametrize("grid", [1, 2, 6, 16])
def test_every_cohort_gets_settings_that_are_allowed(regions: list[int], grid: int, tmp_path: Path) -> None:
    for processes in (1, 4):
        found = chosen_for(regions, grid, processes=processes)
        config = build(PretrainConfig, {"cache": tmp_path, "out": tmp_path, **found})
        assert config.crops.global_side <= grid
        assert not config.auto
        if processes == 1:
            assert config.batch_size <= sum(regions)


@pytest.mark.parametrize("recipe", ["auto", "robust"])
@pytest.mark.parametrize(
    "given",
    [
        *({"embed_dim": width} for width in (24, 65, 128, 384)),
        *({"heads": heads} for heads in (1, 5, 6, 12)),
        *({"local_side": 3}, {"global_side": 1}, {"accumulate": 3}),
        *({"clusters": 30}, {"min_regions": 2}, {"warmup_epochs": 12}, {"epochs": 1}, {"prototype_epoch": 0}),
        *({"min_regions": count} for count in (1, 3)),
        {"epochs": 200, "warmup_epochs": 150},
    ],
)
def test_what_is_chosen_fits_what_is_given(recipe: str, given: dict[str, int], tmp_path: Path) -> None:
    """Also before the cohort is known: defaults that will not be used must not be compared with a flag."""
    config = build(PretrainConfig, {"cache": tmp_path, "out": tmp_path, **given}, Path(recipe))
    for regions, grid in (([20] * 48, 6), ([90] * 48, 6), ([60] * 200, 16), ([60] * 1000, 16)):
        fitted, _ = choose_for(config, CohortSize(regions, grid))
        found = flatten(fitted)
        assert {name: found[name] for name in given} == given
        assert found["embed_dim"] % found["heads"] == 0


@pytest.mark.parametrize(
    "name", ["batch_size", "epochs", "accumulate", "embed_dim", "heads", "global_side", "clusters"]
)
@pytest.mark.parametrize("value", [0, -3])
def test_what_cannot_be_meant_is_named_whatever_is_chosen(name: str, value: int, tmp_path: Path) -> None:
    for recipe in (None, Path("auto"), Path("robust")):
        with pytest.raises(UsageError, match=f"--{name.replace('_', '-')}: got {value}"):
            build(PretrainConfig, {"cache": tmp_path, "out": tmp_path, name: value}, recipe)


def test_what_some_cohort_allows_is_not_refused_before_the_cohort_is_known(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('auto = ["embed_dim"]\n')
    config = build(PretrainConfig, {"cache": tmp_path, "out": tmp_path}, recipe)
    assert choose_for(config, CohortSize([60] * 1000, 16))[0].region_vit.embed_dim == 192
    assert choose_for(config, CohortSize([20] * 48, 16))[0].region_vit.embed_dim == 66  # for six heads
    config = build(PretrainConfig, {"cache": tmp_path, "out": tmp_path, "local_side": 18}, Path("auto"))
    assert choose_for(config, CohortSize([20] * 48, 32))[0].crops.global_side == 20
    config = build(PretrainConfig, {"cache": tmp_path, "out": tmp_path, "accumulate": 3})
    assert choose_for(config, CohortSize([20] * 48, 6))[0].batch_size == 30
    with pytest.raises(UsageError, match=r"--accumulate: got 64, allowed: a divisor of --batch-size \(32\)"):
        choose_for(
            build(PretrainConfig, {"cache": tmp_path, "out": tmp_path, "accumulate": 64}, Path("auto")),
            CohortSize([20] * 48, 6),
        )


def test_what_is_not_chosen_for_a_large_cohort_is_the_default(tmp_path: Path) -> None:
    config = build(PretrainConfig, {"cache": tmp_path, "out": tmp_path}, Path("auto"))
    fitted, _ = choose_for(config, CohortSize([60] * 1000, 16))
    assert fitted.region_vit == PretrainConfig(cache=tmp_path, out=tmp_path).region_vit


def test_flags_and_values_of_recipes_are_not_chosen(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('auto = ["epochs", "batch_size", "lr"]\nlr = 0.5\n')
    config = build(PretrainConfig, {"cache": tmp_path, "out": tmp_path, "epochs": 7}, recipe)
    assert config.auto == ("batch_size",)
    with pytest.raises(UsageError, match="--auto: got speed"):
        build(PretrainConfig, {"cache": tmp_path, "out": tmp_path, "auto": ("speed",)})


def test_the_shipped_recipe_chooses_all_and_says_why(tmp_path: Path) -> None:
    store = TokenStore.open(write_cache(tmp_path / "cache", [5, 9, 7, 8], grid=4))
    config = build(PretrainConfig, {"cache": tmp_path / "cache", "out": tmp_path / "run"}, Path("auto"))
    assert set(config.auto) == set(CHOSEN)
    said: list[str] = []
    fitted = fit_to_cohort(config, store, 1, said.append)
    assert len(said) == len(CHOSEN)
    assert "  clusters = 2: the median slide has 8 regions" in said
    assert fitted.batch_size == 1
    assert not fitted.auto


def test_without_a_recipe_only_small_cohorts_are_fitted(tmp_path: Path) -> None:
    store = TokenStore.open(write_cache(tmp_path / "cache", [5, 9, 7, 8], grid=4))
    plain = build(PretrainConfig, {"cache": tmp_path / "cache", "out": tmp_path / "run"})
    said: list[str] = []
    assert fit_to_cohort(plain, store, 1, said.append).region_vit.embed_dim == 64
    assert said[0].startswith("Small cohort (29 regions)")
    given = build(PretrainConfig, {"cache": tmp_path / "cache", "out": tmp_path / "run", "embed_dim": 48})
    assert not given.auto
    assert fit_to_cohort(given, store, 1, said.append) is given
    dino = {"cache": tmp_path / "cache", "out": tmp_path / "run", "intra_weight": 0.0, "whitening": "none"}
    fitted = fit_to_cohort(build(PretrainConfig, dino), store, 1, said.append)
    assert (fitted.region_vit.embed_dim, fitted.region_vit.whitening) == (64, "none")
    assert (fitted.objective.weights["intra"], fitted.region_vit.pooling) == (0.0, "cls+mean+input")


def test_the_verdict_names_uniform_and_collapsed_outputs() -> None:
    uniform = math.log(256)
    assert "learned almost nothing" in verdict({"dino": str(uniform), "target_entropy": "5.5"}, 256)
    assert "learned almost nothing" in verdict({"dino": "", "target_entropy": str(uniform)}, 256)
    assert "may have learned little" in verdict({"dino": "5.2", "target_entropy": "4.8"}, 256)
    assert "collapsed" in verdict({"dino": "0.001", "target_entropy": "0.001"}, 256)
    assert not verdict({"dino": "4.0", "target_entropy": "2.0"}, 256)


@pytest.mark.slow
@pytest.mark.usefixtures("no_curves")
def test_a_resumed_run_uses_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = write_cache(tmp_path / "cache", [12, 9, 16, 8], grid=4)
    flags = {"cache": cache, "out": tmp_path / "run", "device": "cpu", "epochs": 3, "embed_dim": 8, "heads": 2}
    config = build(PretrainConfig, flags, Path("auto"))
    assert run_until(monkeypatch, config, 2) == 143
    assert "batch_size = 2" in capsys.readouterr().err
    written = tomllib.loads((tmp_path / "run" / "recipe.toml").read_text())
    assert written["epochs"] == 3
    assert written["auto"] == []
    monkeypatch.setattr("slpd_toolkit.training.fitting.choose_settings", None)
    assert pretrain.run(config) == 0
    again = build(PretrainConfig, {"cache": cache, "out": tmp_path / "run"}, tmp_path / "run" / "recipe.toml")
    assert pretrain.run(again) == 0
