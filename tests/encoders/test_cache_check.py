from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from slpd_toolkit.cli.app import app
from slpd_toolkit.encoders.cache_check import normalisation_warning
from slpd_toolkit.encoders.preset import presets, require_preset
from tests.cohorts import write_manifest, write_token_file

if TYPE_CHECKING:
    from pathlib import Path

HALF = (0.5,) * 3
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
UNI = "timm:vit_large_patch16_224?init_values=1e-5&dynamic_img_size=True"


def test_the_cache_of_the_old_uni_recipe_is_recognised() -> None:
    said = normalisation_warning(UNI, "0" * 64, HALF, HALF)
    assert "with the architecture of uni, " in said
    assert "mean 0.5 0.5 0.5, std 0.5 0.5 0.5 instead of mean 0.485 0.456 0.406, std 0.229 0.224 0.225" in said
    assert "slpd embed MANIFEST --out NEW_CACHE --encoder uni --weights FILE" in said


@pytest.mark.parametrize(
    ("encoder", "mean", "std"),
    [
        (UNI, *IMAGENET),
        ("timm:vit_small_patch16_224", HALF, HALF),  # kaiko-s16 is fed so, which has this architecture
        ("timm:vit_large_patch16_224", HALF, HALF),  # without layer scale: timm's own model
        ("timm:resnet10t", HALF, HALF),
        ("uni", *IMAGENET),
        ("random", *IMAGENET),
        ("hipt", HALF, HALF),
        ("somebody's", HALF, HALF),
        ("timm:hf-hub:MahmoodLab/UNI", *IMAGENET),
        (UNI, (), ()),  # imported
    ],
)
def test_other_caches_are_not_warned_of(encoder: str, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    assert normalisation_warning(encoder, "0" * 64, mean, std) == ""


def test_every_preset_s_own_cache_is_right() -> None:
    for preset in presets().values():
        transform = preset.transform
        assert normalisation_warning(preset.name, "0" * 64, transform.mean, transform.std) == ""


@pytest.mark.parametrize(
    "encoder",
    [
        "timm:vit_giant_patch14_reg4_dinov2?img_size=224&init_values=1e-5",
        "timm:hf-hub:bioptimus/H-optimus-0",
        "h0-mini",
    ],
)
def test_h_optimus_with_another_normalisation_is_recognised(encoder: str) -> None:
    assert "h-optimus-0" in normalisation_warning(encoder, "0" * 64, *IMAGENET) or encoder == "h0-mini"
    assert "mean 0.7072 0.5787 0.7036" in normalisation_warning(encoder, "0" * 64, *IMAGENET)


def test_a_known_digest_tells_whose_weights_they_are() -> None:
    (digest,) = require_preset("phikon").digests
    said = normalisation_warning("timm:vit_base_patch16_224", digest, HALF, HALF)
    assert "whose weights are those of phikon" in said
    assert normalisation_warning("timm:vit_base_patch16_224", digest, *IMAGENET) == ""


def test_inspect_warns_of_such_a_cache(tmp_path: Path) -> None:
    write_token_file(tmp_path / "s0.h5", encoder=UNI, mean=HALF, std=HALF)
    done = CliRunner().invoke(app, ["inspect", str(tmp_path)])
    assert done.exit_code == 0
    assert "warning: The tokens are of the encoder timm:vit_large_patch16_224?" in done.stderr
    assert "--encoder uni" in done.stderr


def test_pretrain_warns_of_such_a_cache_before_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slpd_toolkit.training.running.train", lambda *_: None)
    (tmp_path / "cache").mkdir()
    for number in range(4):
        write_token_file(tmp_path / "cache" / f"s{number}.h5", encoder=UNI, mean=HALF, std=HALF)
    sizes = "--global-side 2 --local-side 1 --local-crops 2 --embed-dim 24 --depth 1 --hidden-dim 16 --bottleneck-dim 8"
    flags = f"{sizes} --out-dim 16 --batch-size 4 --epochs 1 --warmup-epochs 0 --prototype-epoch 1 --device cpu"
    done = CliRunner().invoke(
        app, ["pretrain", str(tmp_path / "cache"), "--out", str(tmp_path / "run"), *flags.split()]
    )
    assert "warning: The tokens are of the encoder timm:vit_large_patch16_224?" in done.stderr, done.output


def test_mil_eval_warns_of_such_a_cache_and_of_no_other(tmp_path: Path) -> None:
    """The warning comes before the labels are read, so that the run may end there."""
    manifest = write_manifest(tmp_path / "m.csv", [{"slide_id": "s0"}])
    for name, (mean, std) in {"old": (HALF, HALF), "new": IMAGENET}.items():
        (tmp_path / name).mkdir()
        write_token_file(tmp_path / name / "s0.h5", encoder=UNI, mean=mean, std=std)
        arguments = ["mil-eval", str(tmp_path / name), "--manifest", str(manifest), "--out", str(tmp_path / "out")]
        done = CliRunner().invoke(app, [*arguments, "--model", "mean-tokens", "--device", "cpu"])
        said = " ".join(done.stderr.split())
        assert "label" in said
        assert ("warning: The tokens are of the encoder timm:vit_large_patch16_224?" in said) is (name == "old")
        assert ("Embed the slides again: slpd embed MANIFEST --out NEW_CACHE --encoder uni" in said) is (name == "old")
