"""Reading bundles, which may be incomplete, damaged, of another version, or hostile."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from slpd_toolkit.config.mil_eval import AGGREGATORS, DESCRIPTORS, MOST_CLUSTERS
from slpd_toolkit.core.errors import SlpdError, UsageError
from slpd_toolkit.core.files import require_regular, sha256
from slpd_toolkit.core.text import agree, count, listed
from slpd_toolkit.core.version import __version__, is_version
from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.bundle.bundle import Bundle, BundledHead, predict
from slpd_toolkit.mil.bundle.decision import Decision, decision_of
from slpd_toolkit.mil.bundle.distance import TrainingSet
from slpd_toolkit.mil.bundle.files import (
    ABOUT,
    DESCRIPTOR,
    DIGESTS,
    HEADS,
    KNOWN_MEANS,
    MODEL_CARD,
    REGION_VIT,
    RISKS,
    SCHEMA,
    TRAINING,
    VERSIONS,
    files_of,
    is_bundle,
)
from slpd_toolkit.mil.bundle.origin import KINDS, VIEWS, Origin
from slpd_toolkit.mil.descriptors.descriptor import ChosenDescriptor
from slpd_toolkit.mil.heads.head import HeadState, load_head
from slpd_toolkit.mil.tasks.readouts import READOUT_KINDS, VOTE_RULES, Readout
from slpd_toolkit.mil.tasks.survival_metrics import SurvivalGrid
from slpd_toolkit.mil.tasks.temperature import HIGHEST, LOWEST
from slpd_toolkit.models.region_vit import RegionViT
from slpd_toolkit.models.weights import read_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

_AGAIN = "Run `slpd mil-eval` again, or copy the whole folder again."
_MOST_FEATURES = 1 << 20
_MOST_BYTES = 64 << 20  # of bundle.json, of the digests and of the card
MODEL = "model"
"""Folder of bundles in the folder of an evaluation."""


def read_bundle(folder: Path) -> Bundle:
    """Read and check a bundle.

    Raises:
        UsageError: The folder has no bundle, or one that is incomplete, modified or of another
            version.
    """
    if not is_bundle(folder):
        raise UsageError(f"{folder} is not a bundle: it has no {ABOUT}.", hint="`slpd mil-eval` writes it to model/.")
    document = _read_document(folder)
    _check_digests(folder, document)
    try:
        return _bundle(folder, document)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UsageError(
            f"{folder / ABOUT} does not describe a bundle ({type(error).__name__}: {error}).", hint=_AGAIN
        ) from error
    except SlpdError as error:
        raise UsageError(f"{folder}: {error.message}", hint=_AGAIN) from error


def find_bundles(folder: Path) -> dict[str, Path]:
    """Find the bundles of an evaluation, a `model/` folder, or a bundle folder itself, by name."""
    for base in (folder, folder / MODEL):
        if is_bundle(base):
            return {base.name: base}
        found = {path.name: path for path in sorted(base.iterdir()) if is_bundle(path)} if base.is_dir() else {}
        if found:
            return found
    return {}


def choose_bundle(folder: Path, model: str | None, aggregator: str | None) -> Path:
    """Return the bundle of a folder that has the given model and aggregator.

    Raises:
        UsageError: There is no such bundle, or more than one.
    """
    found = find_bundles(folder)
    targets = (
        [] if found or not folder.is_dir() else [each.name for each in sorted(folder.iterdir()) if find_bundles(each)]
    )
    if targets:
        raise UsageError(
            f"{folder} has evaluations of several targets: {listed(targets)}.",
            hint=f"Pass the folder of one of them, such as {folder / targets[0]}.",
        )
    if not found:
        raise UsageError(
            f"{folder} is not a bundle and contains none.",
            hint="`slpd mil-eval` writes bundles to model/, but not for slide ViTs and means over stains.",
        )
    documents = {name: _read_document(path) for name, path in found.items()}
    chosen = [
        name
        for name, document in documents.items()
        if model in (None, document.get("model")) and aggregator in (None, document.get("aggregator"))
    ]
    if not chosen:
        wanted = ", ".join(value for value in (model, aggregator) if value is not None)
        pairs = [f"{document.get('model')} with {document.get('aggregator')}" for document in documents.values()]
        raise UsageError(f"{folder} has no bundle of {wanted}.", hint=f"It has: {listed(pairs)}.")
    if len(chosen) > 1:
        raise UsageError(
            f"{folder} has several bundles: {listed(chosen)}.",
            hint="Choose with --model and --aggregator, or pass the folder of one of them.",
        )
    return found[chosen[0]]


def read_card(folder: Path) -> str:
    """Read the model card of a bundle.

    Raises:
        UsageError: It is missing or cannot be read.
    """
    try:
        return _read(folder / MODEL_CARD).decode()
    except FileNotFoundError:
        raise UsageError(
            f"{folder} is an incomplete bundle: {MODEL_CARD} is missing.", hint="Copy the whole folder again."
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{folder / MODEL_CARD} cannot be read ({error}).", hint="It must be a text file in UTF-8."
        ) from error


def _read_document(folder: Path) -> dict[str, Any]:
    path = folder / ABOUT
    try:
        document = json.loads(_read(path))
    except FileNotFoundError:
        raise UsageError(f"{folder} is an incomplete bundle: {ABOUT} is missing.", hint=_AGAIN) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as JSON ({error}).", hint=_AGAIN) from error
    found = (document.get("schema"), document.get("schema_version")) if isinstance(document, dict) else (None, None)
    if found[0] != SCHEMA:
        raise UsageError(f"{path} is not a bundle: schema {found[0]!r}, needed {SCHEMA!r}.", hint=_AGAIN)
    if not is_version(found[1], VERSIONS):
        raise UsageError(
            f"{path} is a bundle of version {found[1]!r}, written by slpd_toolkit "
            f"{document.get('toolkit_version', '?')}; this slpd_toolkit {__version__} reads versions "
            f"{listed(map(str, VERSIONS))}.",
            hint="Use the slpd_toolkit that wrote it, or run `slpd mil-eval` again.",
        )
    known: dict[str, Any] = document
    return known


def _check_digests(folder: Path, document: Mapping[str, Any]) -> None:
    path = folder / DIGESTS
    try:
        lines = [line.partition("  ") for line in _read(path).decode().splitlines() if line]
    except FileNotFoundError:
        raise UsageError(
            f"{folder} is an incomplete bundle: {DIGESTS} is missing, which is written last.", hint=_AGAIN
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}).", hint=_AGAIN) from error
    digests = {name: digest for digest, _, name in lines}
    origin = document.get("representation")
    kind = origin.get("kind") if isinstance(origin, dict) else None
    needed = files_of(str(kind))
    missing = [name for name in needed if name not in digests or not (folder / name).is_file()]
    if missing:
        are = agree(len(missing), "is", "are")
        raise UsageError(f"{folder} is an incomplete bundle: {', '.join(missing)} {are} missing.", hint=_AGAIN)
    try:
        changed = [
            name for name in needed if not _has_its_size(folder / name) or sha256(folder / name) != digests[name]
        ]
    except OSError as error:
        raise UsageError(f"{folder} cannot be read ({error}).", hint=_AGAIN) from error
    if changed:
        are_not = agree(len(changed), "is not the file that was", "are not the files that were")
        raise UsageError(
            f"{folder}: {', '.join(changed)} {are_not} written: the SHA-256 is not the one in {DIGESTS}.",
            hint="The bundle is damaged or was changed. " + _AGAIN,
        )


def _read(path: Path) -> bytes:
    """Read a small file.

    Raises:
        OSError: It cannot be read, or is too large for such a file.
    """
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise OSError(f"it has {size:,} bytes")
    require_regular(path)
    return path.read_bytes()


def _has_its_size(path: Path) -> bool:
    """Return whether a file is as long as its header says, so that no time is spent on the digest of a huge one."""
    if path.suffix != ".safetensors":
        return True
    try:
        with safe_open(path, framework="numpy"):
            return True
    except (SafetensorError, OSError):
        return False


def _bundle(folder: Path, document: Mapping[str, Any]) -> Bundle:
    aggregator = str(document["aggregator"])
    AGGREGATORS.require(aggregator)
    arrays = _arrays(folder / HEADS)
    training = _arrays(folder / TRAINING)
    origin = _origin(folder, document["representation"])
    heads = [_head(each, arrays) for each in document["heads"]]
    names = [head.name for head in heads]
    if not any(name != "final" for name in names) or len(set(names)) < len(names):
        raise ValueError(f"its heads are {listed(names) or 'none'}")
    decision, distance = document["decision"], document["distance"]
    rate = distance["false_alarm_rate"]
    found = Bundle(
        _model_name(str(document["model"])),
        aggregator,
        str(document["target"]),
        dict(document["task"]),
        origin,
        heads,
        Decision(
            decision["kind"],
            _classes(decision["classes"], document["task"]),
            float(decision["threshold"]),
            tuple(map(float, decision.get("thresholds", ()))),
        ),
        TrainingSet.from_arrays(training, math.nan if rate is None else float(rate)),
        training.get(KNOWN_MEANS),
        dict(document["facts"]),
        hashlib.sha256((folder / DIGESTS).read_bytes()).hexdigest(),
    )
    _check(found)
    return found


def _check(bundle: Bundle) -> None:
    """Check that the parts match, by predicting a synthetic slide.

    Raises:
        ValueError: They do not.
    """
    width = bundle.origin.width
    if len(bundle.training.neighbourhood.mean) != width:
        raise ValueError(f"the training set has {len(bundle.training.neighbourhood.mean)} features, not {width}")
    fitted = bundle.origin.is_fitted
    known = [head.state.known_means for head in bundle.heads] if fitted else [bundle.known_means]
    if any((means is not None) != load_head(bundle.aggregator).compares for means in known):
        raise ValueError("the embeddings of the training slides are missing or not needed")
    if any(bool(head.state.descriptor) != fitted for head in bundle.heads):
        raise ValueError("the descriptors of the heads are missing or not needed")
    probe = Bags.pack({"probe": bundle.training.neighbourhood.mean[None].astype(np.float32)})
    if fitted and bundle.origin.descriptor is not None and bundle.origin.descriptor.mean_token:
        token_width = int(str(bundle.origin.tokens["embedding_dim"]))
        if not 1 <= token_width <= _MOST_FEATURES:
            raise ValueError(f"the tokens have {token_width} features")
        probe = dataclasses.replace(probe, appended=np.zeros((1, token_width), np.float32))
    try:
        found = predict(bundle, probe)
    except (RuntimeError, IndexError, ValueError) as error:
        raise ValueError(f"its heads cannot be applied: {error}") from error
    classes = len(bundle.decision.classes)
    _check_decision(bundle)
    if not np.isfinite(found.outputs).all() or not np.isfinite(found.distances).all():
        raise ValueError("its heads or its training set produce non-finite numbers")
    if classes not in {0, found.outputs.shape[1]}:
        raise ValueError(f"its heads give {count(found.outputs.shape[1], 'output')} for {classes} classes")


def _check_decision(bundle: Bundle) -> None:
    """Check that the decision fits the outputs of the heads.

    Raises:
        ValueError: It does not.
    """
    found = bundle.decision
    kinds = {decision_of(head.readout.kind, found.classes).kind for head in bundle.heads}
    if kinds != {found.kind}:
        raise ValueError(f"it decides by {found.kind!r}, but its heads need {listed(sorted(kinds))}")
    if not all(0 <= each <= 1 for each in (found.threshold, *found.thresholds)):
        raise ValueError("a threshold is not a number from 0 to 1")
    if not math.isnan(rate := bundle.training.false_alarm_rate) and not 0 <= rate <= 1:
        raise ValueError(f"the false-alarm rate is {rate}")
    if found.kind == "labels" and len(found.thresholds) != len(found.classes):
        raise ValueError(f"it has {len(found.thresholds)} thresholds for {len(found.classes)} labels")


def _origin(folder: Path, found: Mapping[str, Any]) -> Origin:
    kind = found["kind"]
    view = found["view"]
    if kind not in KINDS or view not in VIEWS:
        raise ValueError(f"the representation is {kind!r} with the view {view!r}")
    network = _network(folder / REGION_VIT) if kind == "region-vit" else None
    width = int(found["width"])
    if not 1 <= width <= _MOST_FEATURES:
        raise ValueError(f"the width is {width}")
    return Origin(
        kind,
        str(found["source"]),
        str(found["digest"]),
        width,
        view,
        str(found["precision"]),
        dict(found["tokens"]),
        dict(found["recipe"]),
        network,
        _descriptor(found.get("descriptor")),
    )


def _descriptor(found: Mapping[str, Any] | None) -> ChosenDescriptor | None:
    if found is None:
        return None
    name, clusters = str(found["name"]), int(found["clusters"])
    DESCRIPTORS.require(name)
    if not 0 <= clusters <= MOST_CLUSTERS:
        raise ValueError(f"the descriptor has {clusters} prototypes")
    chosen = ChosenDescriptor(name, clusters, found.get("mean_token", False) is True)
    if chosen.mean_token and chosen.load().is_set:
        raise ValueError(f"a mean token cannot be appended to {name}")
    return chosen


def _network(path: Path) -> RegionViT:
    checkpoint = read_checkpoint(path)
    if not checkpoint["config"]:
        raise ValueError(f"{path.name} does not state its architecture")
    return RegionViT.from_checkpoint(checkpoint, path)


def _head(found: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> BundledHead:
    name, readout = str(found["name"]), found["readout"]
    mine = {key.removeprefix(f"{name}/"): values for key, values in arrays.items() if key.startswith(f"{name}/")}
    risks, known = mine.pop(RISKS, np.zeros(0)), mine.pop(KNOWN_MEANS, None)
    fitted = {key.removeprefix(DESCRIPTOR): mine.pop(key) for key in list(mine) if key.startswith(DESCRIPTOR)}
    options = dict(found["options"])
    if not all(isinstance(value, int | str) and not isinstance(value, bool) for value in options.values()):
        raise ValueError(f"the options of head {name} are {options}")
    if options.get("rule", VOTE_RULES[0]) not in VOTE_RULES or readout["kind"] not in READOUT_KINDS:
        raise ValueError(f"head {name} votes by {options.get('rule')} and is read as {readout['kind']}")
    grid = None
    if "knots" in readout:
        grid = SurvivalGrid(np.array(readout["knots"], np.float64), np.array(readout["times"], np.float64))
    offset, scale = float(readout.get("offset", 0)), float(readout.get("scale", 1))
    if not (math.isfinite(offset) and 0 < scale < math.inf):
        raise ValueError(f"the outputs of head {name} are scaled by {scale} and moved by {offset}")
    temperature = float(found["temperature"])
    if not LOWEST <= temperature <= HIGHEST:
        raise ValueError(f"the temperature of head {name} is {temperature}")
    made = Readout(readout["kind"], grid, offset, scale)
    return BundledHead(name, HeadState(mine, options, fitted, known), str(found["setting"]), made, temperature, risks)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    arrays = {name: tensor.numpy() for name, tensor in read_checkpoint(path)["state_dict"].items()}
    wrong = [name for name, values in arrays.items() if values.dtype.kind == "f" and not np.isfinite(values).all()]
    if wrong:
        raise ValueError(f"{path.name} has values that are not finite in {listed(wrong)}")
    return arrays


def _classes(found: list[object], task: Mapping[str, object]) -> tuple[str, ...]:
    """Return the names of classes, which become columns of tables.

    Raises:
        ValueError: A name is missing, empty or repeated, or the names differ from those of the task.
    """
    names = tuple(name for name in found if isinstance(name, str) and name)
    if len(set(names)) < len(found) or ("classes" in task and task["classes"] != found):
        raise ValueError(f"its classes are {found}, and those of its task are {task.get('classes')}")
    return names


def _model_name(name: str) -> str:
    """Return the name of a model, which becomes part of a file name.

    Raises:
        ValueError: It could lead out of a folder.
    """
    if not name or name.startswith(".") or set(name) & set("/\\\0"):
        raise ValueError(f"the model is named {name!r}")
    return name
