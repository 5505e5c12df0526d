"""The wrong file, the wrong layout, a flipped bit: what is refused, what is warned of, and whose file it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from slpd_toolkit.core.errors import UsageError, WeightsError
from slpd_toolkit.core.files import sha256
from slpd_toolkit.encoders import weights as weights_module
from slpd_toolkit.encoders.layouts import convert, recognise, unwrap
from slpd_toolkit.encoders.preset import Preset, require_preset
from slpd_toolkit.encoders.registry import make_encoder, make_preset
from slpd_toolkit.encoders.weights import Digest, check_digest
from tests.encoders.published_layouts import to_beit3, to_dinov2, to_hugging_face
from tests.encoders.twins import Twin, twins


def saved(twin: Twin, path: Path) -> Path:
    torch.save(twin.layouts[0](dict(twin.network().state_dict())), path)
    return path


def with_digest(preset: Preset, name: str, digest: str) -> Preset:
    return replace(preset, weights=replace(preset.weights, sha256={name: digest}))


def test_a_known_digest_is_recognised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(twins()["uni"], tmp_path / "pytorch_model.bin")
    known = with_digest(twins()["uni"].preset(), "pytorch_model.bin", sha256(path))
    assert make_preset(known, weights=path, patch_px=256, seed=0).weights_sha256 == sha256(path)
    assert "the published weights of uni (sha256 checked)" in capsys.readouterr().err


def test_an_unknown_file_is_accepted_with_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(twins()["uni"], tmp_path / "pytorch_model.bin")
    make_preset(twins()["uni"].preset(), weights=path, patch_px=256, seed=0)
    said = capsys.readouterr().err
    assert "the digest of this file is not known for uni" in said
    assert f"slpd encoders uni --check {path}" in said


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("pytorch_model.bin", {"pytorch_model.bin": "0" * 64}, Digest.CHANGED),
        ("renamed.bin", {"pytorch_model.bin": "0" * 64}, Digest.CHANGED),
        ("renamed.pth", {"pytorch_model.bin": "0" * 64}, Digest.UNKNOWN),  # another file, which may be published too
        ("renamed.bin", {"pytorch_model.bin": "0" * 64, "other.bin": ""}, Digest.UNKNOWN),
        ("other.bin", {"pytorch_model.bin": "0" * 64, "other.bin": ""}, Digest.UNKNOWN),
        ("pytorch_model.bin", {"pytorch_model.bin": "0" * 64, "other.bin": ""}, Digest.CHANGED),
        ("pytorch_model.bin", {}, Digest.UNKNOWN),
    ],
)
def test_a_file_that_should_have_a_known_digest_and_has_another_is_recognised(
    name: str, known: dict[str, str], expected: Digest
) -> None:
    preset = twins()["uni"].preset()
    preset = replace(preset, weights=replace(preset.weights, sha256=known))
    assert check_digest(preset, Path(name), "1" * 64) is expected


def test_such_a_file_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(twins()["uni"], tmp_path / "pytorch_model.bin")
    known = with_digest(twins()["uni"].preset(), "pytorch_model.bin", "0" * 64)
    make_preset(known, weights=path, patch_px=256, seed=0)
    said = capsys.readouterr().err
    assert "warning:" in said
    assert "is not the published file of uni, whose SHA-256 is known" in said


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = saved(twins()["uni"], tmp_path / "pytorch_model.bin")
    state = torch.load(path, weights_only=True)
    state["norm.weight"][3] = float("nan")
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"not all values are finite \(norm\.weight\)"):
        make_preset(twins()["uni"].preset(), weights=path, patch_px=256, seed=0)


def test_the_published_file_of_another_encoder_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(twins()["uni"], tmp_path / "pytorch_model.bin")
    mstar = with_digest(twins()["mstar"].preset(), "mstar.bin", sha256(path))
    monkeypatch.setattr(weights_module, "presets", lambda: {"mstar": mstar})
    with pytest.raises(WeightsError, match=r"is the published file of mstar, not of uni\.") as caught:
        make_preset(twins()["uni"].preset(), weights=path, patch_px=256, seed=0)
    assert "--encoder mstar" in caught.value.hint


def test_a_file_of_another_layout_is_refused(tmp_path: Path) -> None:
    state = to_hugging_face(dict(twins()["phikon-v2"].network().state_dict()))
    torch.save(state, tmp_path / "model.bin")
    with pytest.raises(WeightsError, match=r"layout 'hf-dinov2', but this encoder is published as: timm"):
        make_preset(twins()["uni"].preset(), weights=tmp_path / "model.bin", patch_px=256, seed=0)


@pytest.mark.slow
def test_the_file_of_another_model_is_named_by_its_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {name: twins()[name].preset() for name in ("uni", "mstar", "uni2-h", "virchow2", "gigapath")}
    monkeypatch.setattr(weights_module, "presets", lambda: small)
    path = saved(twins()["uni2-h"], tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="unexpected: ") as caught:
        make_preset(small["uni"], weights=path, patch_px=256, seed=0)
    assert "Its names and shapes are those of: uni2-h. Nothing was loaded." in caught.value.hint
    path = saved(twins()["uni"], tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError) as caught:
        make_preset(small["virchow2"], weights=path, patch_px=224, seed=0)
    assert "Its names and shapes are those of: uni, mstar." in caught.value.hint


@pytest.mark.parametrize("damage", ["missing", "extra", "shape"])
def test_loading_is_strict_after_conversion(tmp_path: Path, damage: str) -> None:
    twin = twins()["hibou-b"]
    state = to_hugging_face(dict(twin.network().state_dict()))
    if damage == "missing":
        del state["encoder.layer.1.attention.attention.key.bias"]
    elif damage == "extra":
        state["encoder.layer.1.attention.extra"] = torch.zeros(1)
    else:
        state["embeddings.position_embeddings"] = torch.zeros(1, 200, 48)
    torch.save(state, tmp_path / "model.bin")
    with pytest.raises(WeightsError, match=r"attn\.qkv\.bias|extra|pos_embed"):
        make_preset(twin.preset(), weights=tmp_path / "model.bin", patch_px=224, seed=0)


def test_a_learned_encoder_says_what_to_download() -> None:
    with pytest.raises(UsageError, match="--encoder uni2-h needs --weights FILE") as caught:
        make_encoder("uni2-h", weights=None, patch_px=256, seed=0, allow_download=False)
    hint = caught.value.hint
    assert "pytorch_model.bin of MahmoodLab/UNI2-h, after its terms were accepted there" in hint
    assert "CC-BY-NC-ND-4.0" in hint


def test_a_preset_that_only_a_config_describes_needs_it(tmp_path: Path) -> None:
    twin = Twin(
        "prost40m",
        "vit_small_patch16_224",
        {"img_size": 224, "patch_size": 14, "dynamic_img_size": True},
        ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        224,
        384,
        None,
    )
    path = saved(twin, tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"config\.json is missing: only it states how this encoder normalizes"):
        make_preset(twin.preset(), weights=path, patch_px=224, seed=0)
    (tmp_path / "config.json").write_text('{"pretrained_cfg": {"mean": [0.1, 0.2, 0.3]}}')
    with pytest.raises(WeightsError, match="does not state mean, std and input_size"):
        make_preset(twin.preset(), weights=path, patch_px=224, seed=0)
    (tmp_path / "config.json").write_text(
        '{"pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 224, 224]}}'
    )
    pixels = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    encoder = make_preset(twin.preset(), weights=path, patch_px=224, seed=0)
    assert torch.allclose(encoder.embed(pixels, "fp32"), twin.tokens(twin.network(), pixels.numpy()), atol=1e-4)


def test_layouts_are_told_apart_by_their_names() -> None:
    vit, registers = dict(twins()["phikon"].network().state_dict()), dict(twins()["hibou-b"].network().state_dict())
    musk = dict(twins()["musk"].network().state_dict())
    found = {
        "timm": vit,
        "hf-vit": to_hugging_face(vit),
        "hf-dinov2": to_hugging_face(registers),
        "dinov2": unwrap(to_dinov2(registers), ""),
        "musk": to_beit3(musk),
    }
    assert {layout: recognise(state) for layout, state in found.items()} == {layout: layout for layout in found}
    back = convert(found["hf-dinov2"], ["hf-dinov2"], "")
    assert back.keys() == registers.keys()
    assert all(torch.allclose(back[name], registers[name], atol=1e-6) for name in registers)


def test_the_preset_names_a_patch_size_it_was_made_for() -> None:
    with pytest.raises(UsageError, match="--patch-px: got 256, allowed with encoder virchow2: 224"):
        make_preset(require_preset("virchow2"), weights=None, patch_px=256, seed=0)
