from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from slpd_toolkit.core.errors import UsageError, WeightsError
from slpd_toolkit.core.files import sha256
from slpd_toolkit.encoders import timm as timm_encoders
from slpd_toolkit.encoders.encoder import IMAGENET_MEAN, IMAGENET_STD
from slpd_toolkit.encoders.registry import make_encoder
from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

    from slpd_toolkit.encoders.encoder import Encoder

MODEL = "vit_tiny_patch16_224"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """No test here may reach for the network; what tries is refused and noted."""
    tried: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        tried.append(arguments)
        raise OSError("the network is off in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    return tried


@pytest.fixture(scope="module")
def timm() -> Any:
    return timm_encoders.import_timm()


@pytest.fixture(scope="module")
def model(timm: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(MODEL, pretrained=False).eval()


@pytest.fixture
def weights(tmp_path: Path, model: Any) -> Path:
    """As the hub has them: with the classifier."""
    path = tmp_path / "model.safetensors"
    save_file(model.state_dict(), path)
    return path


DESCRIPTION = {"mean": "half", "std": "0.5,0.5,0.5", "pooling": "model"}


def encoder(name: str, weights: Path | None = None, *, allow_download: bool = False, **described: Any) -> Encoder:
    of_a_file = weights is not None and ":" not in name
    return make_encoder(
        f"timm:{name}",
        weights=weights,
        patch_px=256,
        seed=0,
        allow_download=allow_download,
        **({**DESCRIPTION, **described} if of_a_file else described),
    )


def one(setting: str, value: str) -> dict[str, Any]:
    return {setting: value}


def pixels(side: int = 224) -> torch.Tensor:
    return torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_a_model_of_another_input_size_is_fed_that_size(timm: Any, tmp_path: Path) -> None:
    path = tmp_path / "small.pth"
    torch.save(timm.create_model(MODEL, img_size=32).state_dict(), path)
    small = encoder(f"{MODEL}?img_size=32", path)
    assert small.input_px == 32
    assert small.embed(pixels(), "fp32").shape == (2, 192)


@pytest.mark.slow
def test_a_timm_model_runs_from_local_weights(model: Any, weights: Path) -> None:
    tiny = encoder(MODEL, weights)
    assert (tiny.name, tiny.embedding_dim, tiny.input_px) == (f"timm:{MODEL}", 192, 224)
    assert tiny.mean == tuple(model.pretrained_cfg["mean"])
    assert tiny.std == tuple(model.pretrained_cfg["std"])
    assert tiny.weights_sha256 == sha256(weights)
    assert not tiny.network.training
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (tiny.mean, tiny.std))
    with torch.no_grad():
        images = (pixels().permute(0, 3, 1, 2) / 255 - mean) / std
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
    assert torch.allclose(tiny.embed(pixels(), "fp32"), expected, atol=1e-4)


@pytest.mark.slow
def test_patches_are_resized_to_what_the_model_sees(weights: Path) -> None:
    flat = torch.full((1, 256, 256, 3), 90, dtype=torch.uint8)
    tiny = encoder(MODEL, weights)
    assert torch.allclose(tiny.embed(flat, "fp32"), tiny.embed(flat[:, :224, :224], "fp32"), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("wrap", ["state_dict", "model", "teacher"])
def test_wrapped_checkpoints_load(tmp_path: Path, model: Any, weights: Path, wrap: str) -> None:
    path = tmp_path / "w.pth"
    torch.save({wrap: {f"module.{name}": value for name, value in model.state_dict().items()}, "epoch": 3}, path)
    assert torch.equal(encoder(MODEL, path).embed(pixels(), "fp32"), encoder(MODEL, weights).embed(pixels(), "fp32"))


@pytest.mark.slow
def test_constructor_arguments_reach_the_model(timm: Any, tmp_path: Path, weights: Path) -> None:
    state = timm.create_model(MODEL, pretrained=False, init_values=1e-5, num_classes=0).state_dict()
    assert "blocks.0.ls1.gamma" in state
    torch.save(state, tmp_path / "scaled.pth")
    scaled = encoder(f"{MODEL}?init_values=1e-5&dynamic_img_size=True", tmp_path / "scaled.pth")
    assert scaled.name == f"timm:{MODEL}?init_values=1e-5&dynamic_img_size=True"
    with pytest.raises(WeightsError, match=r"unexpected: .*ls1\.gamma"):
        encoder(MODEL, tmp_path / "scaled.pth")
    with pytest.raises(WeightsError, match=r"missing: .*ls1\.gamma"):
        encoder(f"{MODEL}?init_values=1e-5", weights)
    with pytest.raises(UsageError, match=r"timm cannot build it .*no_such_argument"):
        encoder(f"{MODEL}?no_such_argument=1", weights)
    with pytest.raises(UsageError, match="timm cannot build it"):
        encoder(f"{MODEL}?num_classes=5", weights)


@pytest.mark.slow
def test_the_class_token_is_taken_of_a_sequence(model: Any, weights: Path) -> None:
    sequence = encoder(f"{MODEL}?global_pool=", weights)
    assert sequence.embedding_dim == 192
    assert torch.allclose(sequence.embed(pixels(), "fp32"), encoder(MODEL, weights).embed(pixels(), "fp32"), atol=1e-5)


@pytest.mark.slow
def test_the_wrong_weights_are_named(timm: Any, tmp_path: Path, model: Any) -> None:
    path = tmp_path / "w.pth"
    torch.save(timm.create_model("vit_tiny_patch16_384", pretrained=False).state_dict(), path)
    with pytest.raises(WeightsError, match=r"w\.pth: .*pos_embed \(1, 577, 192\) instead of \(1, 197, 192\)"):
        encoder(MODEL, path)
    state = model.state_dict()
    del state["norm.weight"]
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"1 missing: norm\.weight"):
        encoder(MODEL, path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(WeightsError, match="contains no tensors"):
        encoder(MODEL, path)


@pytest.mark.slow
def test_nothing_is_fetched_unless_it_is_allowed(weights: Path, offline: list[object]) -> None:
    for name, given in [
        (MODEL, None),
        ("hf-hub:MahmoodLab/uni", None),
        ("hf-hub:MahmoodLab/uni", weights),
        ("HF_HUB:MahmoodLab/uni", weights),
    ]:
        with pytest.raises(UsageError, match="nothing may be downloaded") as caught:
            encoder(name, given)
        assert "--allow-download" in caught.value.hint
        assert "--weights" in caught.value.hint
    encoder(MODEL, weights)
    assert offline == []


def test_an_unknown_model_is_a_usage_error(weights: Path, offline: list[object]) -> None:
    with pytest.raises(UsageError, match=r"--encoder timm:no_such_model: timm cannot build it \(Unknown model"):
        encoder("no_such_model", weights)
    assert offline == []


def write_folder(folder: Path, state: dict[str, Any], classes: int) -> Path:
    config = {
        "architecture": MODEL,
        "num_classes": classes,
        "num_features": 192,
        "pretrained_cfg": {
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
            "input_size": [3, 224, 224],
            "crop_pct": 1.0,
            "classifier": "head",
        },
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(state, folder / "pytorch_model.bin")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("classes", [0, 1000])
def test_a_local_folder_needs_no_network_and_loads_strictly(
    tmp_path: Path, model: Any, weights: Path, offline: list[object], classes: int
) -> None:
    state = {name: value for name, value in model.state_dict().items() if classes or not name.startswith("head.")}
    folder = write_folder(tmp_path / "folder", state, classes)
    local = encoder(f"local-dir:{folder}")
    assert (local.mean, local.std, local.embedding_dim) == (IMAGENET_MEAN, IMAGENET_STD, 192)
    plain = encoder(MODEL, weights).embed(normalised_alike(local, weights), "fp32")
    assert torch.allclose(local.embed(pixels(), "fp32"), plain, atol=1e-4)
    assert local.weights_sha256 == encoder(f"local-dir:{folder}").weights_sha256
    del state["blocks.3.mlp.fc1.weight"]
    write_folder(folder, state, classes)
    with pytest.raises(UsageError, match=r"blocks\.3\.mlp\.fc1\.weight"):
        encoder(f"local-dir:{folder}")
    assert offline == []


def normalised_alike(local: Encoder, weights: Path) -> torch.Tensor:
    """The pixels that the model's own normalisation turns into what the folder's turns `pixels()` into."""
    own = encoder(MODEL, weights)
    images = (pixels() / 255 - torch.tensor(local.mean)) / torch.tensor(local.std)
    return (images * torch.tensor(own.std) + torch.tensor(own.mean)) * 255


@pytest.mark.slow
def test_a_local_folder_s_own_configuration_is_used_and_printed(
    tmp_path: Path, model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "folder", dict(model.state_dict()), 1000)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= {"crop_pct": 0.9, "interpolation": "bilinear", "mean": [0.1, 0.2, 0.3]}
    (folder / "config.json").write_text(json.dumps(config))
    local = encoder(f"local-dir:{folder}")
    assert (local.resize_px, local.input_px, local.interpolation) == (248, 224, "bilinear")
    assert local.mean == (0.1, 0.2, 0.3)
    said = capsys.readouterr().err
    assert "mean 0.1 0.2 0.3, std 0.229 0.224 0.225, patches resized to 248 px (bilinear), central 224 px" in said
    assert encoder(f"local-dir:{folder}", mean="imagenet").mean == IMAGENET_MEAN


@pytest.mark.parametrize("missing", ["mean", "std", "pooling"])
def test_a_file_alone_does_not_tell_how_its_model_was_fed(weights: Path, missing: str) -> None:
    with pytest.raises(UsageError, match=rf"needs --{missing}: the file does not state") as caught:
        encoder(MODEL, weights, **one(missing, ""))
    assert "--mean imagenet" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        encoder("vit_large_patch16_224?init_values=1e-5", weights, **one(missing, ""))
    assert re.search(r"Is it one of .*\buni, .*phikon-v2", caught.value.hint)


@pytest.mark.slow
def test_the_description_is_used(weights: Path, model: Any) -> None:
    described = encoder(MODEL, weights, mean="0.1,0.2,0.3", std="clip", pooling="cls+mean")
    assert described.mean == (0.1, 0.2, 0.3)
    assert described.std == (0.26862954, 0.26130258, 0.27577711)
    assert described.name == f"timm:{MODEL}#cls+mean"
    with torch.no_grad():
        images = (pixels().permute(0, 3, 1, 2) / 255 - torch.tensor(described.mean).view(3, 1, 1)) / torch.tensor(
            described.std
        ).view(3, 1, 1)
        tokens = model.forward_features(images)
    expected = torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1)
    assert torch.allclose(described.embed(pixels(), "fp32"), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("flag", "value", "allowed"),
    [
        ("mean", "0.5", "three numbers"),
        ("mean", "0.5,0.5,127", "from 0 to 1"),
        ("std", "0.5,0.5,0", "from 0 to 1"),
        ("std", "imagnet", "three numbers .* or one of .*imagenet"),
        ("pooling", "max", r"cls, mean, cls\+mean, model"),
    ],
)
def test_a_wrong_description_is_refused(weights: Path, flag: str, value: str, allowed: str) -> None:
    with pytest.raises(UsageError, match=rf"--{flag}: got {value}, allowed: .*{allowed}"):
        encoder(MODEL, weights, **one(flag, value))


@pytest.mark.slow
def test_a_model_without_cls_token_is_not_pooled_by_it(timm: Any, tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    torch.save(timm.create_model("resnet10t").state_dict(), path)
    with pytest.raises(
        UsageError, match=r"--pooling: timm:resnet10t cannot be pooled this way \(ResNet has no CLS token"
    ):
        encoder("resnet10t", path, pooling="cls")
    assert encoder("resnet10t", path, pooling="mean").embedding_dim == 512


class _RunsCode:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("owned",)


def test_a_malicious_local_folder_runs_nothing(tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_folder(tmp_path / "folder", {**model.state_dict(), "x": _RunsCode()}, 1000)
    with pytest.raises((UsageError, WeightsError)):
        encoder(f"local-dir:{folder}")
    assert not (tmp_path / "owned").exists()


def test_timm_missing_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    def absent(_: str) -> None:
        raise ModuleNotFoundError("No module named 'timm'")

    monkeypatch.setattr(timm_encoders, "import_module", absent)
    with pytest.raises(UsageError, match=r"needs the timm extra \(No module named 'timm'\)") as caught:
        encoder(MODEL, weights)
    assert "pip install 'slpd-toolkit[timm]'" in caught.value.hint


FRESH = """
import sys, torch
from pathlib import Path
from slpd_toolkit.encoders.registry import make_encoder
assert "timm" not in sys.modules and "torchvision" not in sys.modules
described = {"mean": "half", "std": "half", "pooling": "cls"}
settings = {"weights": Path(sys.argv[1]), "patch_px": 256, "seed": 0, "allow_download": False, **described}
make_encoder("timm:vit_tiny_patch16_224", **settings)
encoder = make_encoder("timm:vit_tiny_patch16_224", **settings)  # a second time in one process
print(tuple(encoder.embed(torch.zeros(1, 256, 256, 3, dtype=torch.uint8), "fp32").shape))
"""


@pytest.mark.slow
def test_in_a_fresh_process_with_warnings_as_errors(weights: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FRESH, weights],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(1, 192)"
    assert "warning" not in done.stderr.lower()
