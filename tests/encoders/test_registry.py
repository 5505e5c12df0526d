from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from slpd_toolkit.core.errors import UsageError, WeightsError
from slpd_toolkit.core.files import sha256
from slpd_toolkit.encoders import weights as weights_module
from slpd_toolkit.encoders.registry import make_encoder
from slpd_toolkit.models.patch_vit import PatchViT
from tests.published import relative_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from slpd_toolkit.encoders.encoder import Encoder
    from tests.published import PublishedNumbers

    State = dict[str, Tensor]


def encoder(name: str, weights: Path | None = None, *, patch_px: int = 64, seed: int = 0) -> Encoder:
    return make_encoder(name, weights=weights, patch_px=patch_px, seed=seed, allow_download=False)


def pixels(count: int = 2, side: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def small() -> State:
    """Weights of a ViT-S/16 with nothing at its initial value, so that a swapped tensor would show."""
    generator = torch.Generator().manual_seed(1)
    network = PatchViT()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def expected_tokens(state: State, batch: Tensor) -> Tensor:
    network = PatchViT().eval()
    network.load_state_dict(state)
    with torch.no_grad():
        tokens: Tensor = network((batch.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5)
    return tokens


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"teacher": {f"backbone.{name}": value for name, value in state.items()}},
        lambda state: {
            "student": {f"module.backbone.{name}": value + 1 for name, value in state.items()},
            "teacher": {f"module.backbone.{name}": value for name, value in state.items()}
            | {"module.head.mlp.0.weight": torch.zeros(3, 3), "module.head.last_layer.weight_g": torch.ones(3, 1)},
            "epoch": 7,
        },
    ],
    ids=["bare", "teacher", "whole-run"],
)
def test_hipt_s_published_layouts_give_the_network_s_tokens(
    tmp_path: Path, small: State, wrap: Callable[[State], dict[str, Any]]
) -> None:
    path = tmp_path / "vit.pth"
    torch.save(wrap(small), path)
    hipt = encoder("hipt", path)
    assert (hipt.name, hipt.embedding_dim, hipt.input_px) == ("hipt", 384, 64)
    assert (hipt.mean, hipt.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert hipt.weights_sha256 == sha256(path)
    assert not hipt.network.training
    assert not any(parameter.requires_grad for parameter in hipt.network.parameters())
    tokens = hipt.embed(pixels(), "fp32")
    assert tokens.dtype == torch.float32
    assert relative_error(tokens, expected_tokens(small, pixels())) < 1e-5


@pytest.mark.slow
def test_hipt_from_safetensors(tmp_path: Path, small: State) -> None:
    save_file(small, tmp_path / "vit.safetensors")
    tokens = encoder("hipt", tmp_path / "vit.safetensors").embed(pixels(), "fp32")
    assert relative_error(tokens, expected_tokens(small, pixels())) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("side", [224, 256])
def test_hipt_matches_the_published_code(published: PublishedNumbers, tmp_path: Path, side: int) -> None:
    """The fixture's input is not bytes: normalisation is undone, so that the network sees the published input."""
    network = PatchViT()
    published.load_into(network)
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    hipt = encoder("hipt", tmp_path / "vit.pth", patch_px=side)
    images = published.input(f"pixels{side}", 2 if side == 256 else 1, 3, side, side)
    as_pixels = (images * 0.5 + 0.5) * 255
    tokens = hipt.embed(as_pixels.permute(0, 2, 3, 1), "fp32")
    assert relative_error(tokens, published[f"patch_vit/{side}"]) < 1e-4


@pytest.mark.slow
def test_the_wrong_weights_say_which_keys_and_shapes(
    tmp_path: Path, small: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_module, "fitting_presets", lambda state: [])  # see test_weights
    path = tmp_path / "vit.pth"
    torch.save(PatchViT(embed_dim=192, heads=3).state_dict(), path)
    with pytest.raises(
        WeightsError, match=r"vit\.pth: the weights do not match this PatchViT .*\(192,\) instead of \(384,\)"
    ):
        encoder("hipt", path)
    torch.save({name: value for name, value in small.items() if name != "pos_embed"}, path)
    with pytest.raises(WeightsError, match=r"1 missing: pos_embed"):
        encoder("hipt", path)
    torch.save(small | {"pos_embed": torch.zeros(1, 1025, 384)}, path)
    with pytest.raises(WeightsError, match=r"pos_embed \(1, 1025, 384\) instead of \(1, 197, 384\)"):
        encoder("hipt", path)


class _RunsCode:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("owned",)


@pytest.mark.slow
def test_a_malicious_checkpoint_runs_nothing(tmp_path: Path, small: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"teacher": small, "epoch": _RunsCode()}, "vit.pth")
    with pytest.raises(WeightsError, match="refused"):
        encoder("hipt", tmp_path / "vit.pth")
    assert not (tmp_path / "owned").exists()


def test_hipt_without_weights_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--encoder hipt needs --weights") as caught:
        encoder("hipt")
    assert "vit256_small_dino.pth" in caught.value.hint
    with pytest.raises(WeightsError, match="no such weights file"):
        encoder("hipt", tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match="is a folder, not a weights file"):
        encoder("hipt", tmp_path)


@pytest.mark.parametrize("name", ["resnet", "", "random:vit_huge", "hipt:small", "timm", "timm:", "HIPT"])
def test_an_unknown_encoder_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match=r"--encoder: got .*allowed: handcrafted, random, .*hipt, .*timm:<model>"):
        encoder(name)


def test_a_near_name_is_suggested() -> None:
    with pytest.raises(UsageError) as caught:
        encoder("UNI2-H")
    assert "Did you mean uni2-h?" in caught.value.hint


@pytest.mark.parametrize(("flag", "value"), [("mean", "imagenet"), ("std", "0.5,0.5,0.5"), ("pooling", "cls")])
def test_a_preset_takes_no_other_description(flag: str, value: str) -> None:
    with pytest.raises(UsageError, match=rf"--{flag}: got .*encoder random has its own"):
        make_encoder("random", weights=None, patch_px=64, seed=0, allow_download=False, **{flag: value})


@pytest.mark.parametrize("name", ["random", "handcrafted"])
def test_an_encoder_that_is_not_learned_takes_no_weights(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"allowed with encoder {name}: none"):
        encoder(name, tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["hipt", "random"])
def test_a_patch_that_is_no_multiple_of_16_px_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=rf"--patch-px: got 100, allowed with encoder {name}: multiples of 16"):
        encoder(name, patch_px=100)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "width"), [("random", 192), ("random:vit_small", 384)])
def test_random_is_its_seed(name: str, width: int) -> None:
    first, again, other = encoder(name, seed=3), encoder(name, seed=3), encoder(name, seed=4)
    assert first.embedding_dim == width
    assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256
    tokens = first.embed(pixels(), "fp32")
    assert tokens.shape == (2, width)
    assert torch.equal(tokens, again.embed(pixels(), "fp32"))
    assert not torch.allclose(tokens, other.embed(pixels(), "fp32"))
    assert not torch.allclose(tokens[0], tokens[1])


@pytest.mark.slow
def test_random_neither_moves_nor_follows_torch_s_own_generator() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = encoder("random")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(123)
    assert encoder("random").weights_sha256 == first.weights_sha256 == encoder("random:vit_tiny").weights_sha256
