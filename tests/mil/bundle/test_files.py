"""Bundles on disk: complete or refused, and equal to what was evaluated."""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import sha256
from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.bundle.bundle import apply_head, predict
from slpd_toolkit.mil.bundle.files import write_bundle
from slpd_toolkit.mil.bundle.making import FinalTraining, make_bundles
from slpd_toolkit.mil.bundle.origin import Origin
from slpd_toolkit.mil.bundle.reading import choose_bundle, find_bundles, read_bundle
from slpd_toolkit.mil.cohort.split_kinds.cross_validation import cross_validation
from slpd_toolkit.mil.descriptors.descriptor import ChosenDescriptor
from slpd_toolkit.mil.heads.training import HeadTraining
from slpd_toolkit.mil.statistics.model_results import Counting, evaluate_models
from slpd_toolkit.mil.statistics.results import Evaluation, Representation
from slpd_toolkit.mil.tasks.kinds.survival import Survival
from tests.mil.planted import make_cohort, planted_bags, task_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slpd_toolkit.mil.bundle.bundle import Bundle
    from slpd_toolkit.mil.statistics.results import Result
    from slpd_toolkit.mil.tasks.task import Task

COHORT = make_cohort([1, 2] * 12, ["a", "b"] * 12)
BAGS = planted_bags(COHORT, signal=3.0)
ORIGIN = Origin("table", "vectors.npz", "0" * 64, BAGS.width)
TOKENS = Origin("mean-tokens", "mean", "", BAGS.width, tokens={"embedding_dim": 2})
SHORT = HeadTraining(steps=10, check_every=5, batch_size=16)
RNG = np.random.default_rng(0)
SURVIVAL = Survival(RNG.exponential(size=len(BAGS.slides)), RNG.random(len(BAGS.slides)) < 0.7)


def evaluated(
    task: Task, *aggregators: str, descriptor: ChosenDescriptor | None = None, bags: Bags = BAGS
) -> tuple[Evaluation, list[Bundle]]:
    splits = cross_validation(COHORT, folds=3)
    representation = Representation("m", "vectors.npz", bags, descriptor=descriptor)
    results, _, _ = evaluate_models(
        task,
        COHORT,
        [representation],
        dict.fromkeys(aggregators, 1),
        splits,
        training=SHORT,
        counting=Counting(),
        seed=0,
        jobs=1,
    )
    evaluation = Evaluation("label", task, COHORT, (representation,), results, "patient", False, (), {"m": ()}, {})
    origin = ORIGIN if bags.appended is None else TOKENS
    return evaluation, make_bundles(
        evaluation, splits, {"m": dataclasses.replace(origin, descriptor=descriptor)}, FinalTraining(SHORT, 0)
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    _, (bundle,) = evaluated(task_of(COHORT), "knn")
    folder = tmp_path_factory.mktemp("written") / "model"
    write_bundle(folder, bundle, "# Card\n")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("task", [task_of(COHORT), SURVIVAL], ids=["classes", "survival"])
def test_a_bundle_that_was_moved_repeats_the_evaluation(task: Task, tmp_path: Path) -> None:
    evaluation, bundles = evaluated(task, "knn", "probe", "abmil")
    for bundle, result in zip(bundles, evaluation.results, strict=True):
        write_bundle(tmp_path / "here", bundle, "")
        (tmp_path / "here").rename(tmp_path / bundle.aggregator)
        again = read_bundle(tmp_path / bundle.aggregator)
        assert [head.name for head in again.heads] == ["0.0", "0.1", "0.2", "final"]
        for head, fold in zip(again.heads, result.folds, strict=False):
            found = apply_head(again, head, BAGS, again.known())
            np.testing.assert_array_equal(found.raw[fold.rows], fold.outputs)
        one, other = predict(bundle, BAGS), predict(again, BAGS)
        np.testing.assert_array_equal(one.outputs, other.outputs)
        np.testing.assert_array_equal(one.distances, other.distances)
        assert one.decisions == other.decisions
        assert predict(again, BAGS, final=True).heads[0].name == "final"
        row = 5
        alone = Bags.pack({"x": BAGS.features[BAGS.offsets[row] : BAGS.offsets[row + 1]]})
        np.testing.assert_array_equal(predict(again, alone).outputs[0], other.outputs[row])
    assert list(find_bundles(tmp_path)) == ["abmil", "knn", "probe"]


def assert_repeats_the_evaluation(bundle: Bundle, result: Result, folder: Path, bags: Bags = BAGS) -> None:
    write_bundle(folder / "here", bundle, "")
    (folder / "here").rename(folder / "there")
    again = read_bundle(folder / "there")
    for head, fold in zip(again.heads, result.folds, strict=False):
        found = apply_head(again, head, bags, again.known())
        np.testing.assert_array_equal(found.raw[fold.rows], fold.outputs)
    one, other = predict(bundle, bags, final=True), predict(again, bags, final=True)
    np.testing.assert_array_equal(one.outputs, other.outputs)
    alone = bags.subset(np.array([5]))
    np.testing.assert_array_equal(predict(again, alone, final=True).outputs[0], other.outputs[5])


@pytest.mark.parametrize(("name", "aggregator"), [("histogram", "probe"), ("mixture", "knn")])
def test_the_descriptor_of_each_fold_is_kept_with_its_head(name: str, aggregator: str, tmp_path: Path) -> None:
    chosen = ChosenDescriptor(name, 3)
    evaluation, (bundle,) = evaluated(task_of(COHORT), aggregator, descriptor=chosen)
    assert bundle.known_means is None
    assert_repeats_the_evaluation(bundle, evaluation.results[0], tmp_path)
    document = json.loads((tmp_path / "there" / "bundle.json").read_text())
    assert document["schema_version"] == 2
    assert document["representation"]["descriptor"] == {"name": name, "clusters": 3}


def test_a_mean_token_is_appended_to_the_descriptor_of_each_fold(tmp_path: Path) -> None:
    chosen = ChosenDescriptor("histogram", 3, mean_token=True)
    token = RNG.normal(size=(len(BAGS.slides), 2)).astype(np.float32)
    bags = dataclasses.replace(BAGS, appended=token)
    evaluation, (bundle,) = evaluated(task_of(COHORT), "probe", descriptor=chosen, bags=bags)
    assert_repeats_the_evaluation(bundle, evaluation.results[0], tmp_path, bags)
    document = json.loads((tmp_path / "there" / "bundle.json").read_text())
    assert document["schema_version"] == 3
    assert document["representation"]["descriptor"] == {"name": "histogram", "clusters": 3, "mean_token": True}
    other = predict(bundle, dataclasses.replace(bags, appended=token + 1), final=True).outputs
    assert not np.allclose(other, predict(bundle, bags, final=True).outputs)
    for damage, said in (
        ({"descriptor": {"name": "histogram", "clusters": 3}}, "its heads cannot be applied"),
        ({"tokens": {"embedding_dim": 3}}, "its heads cannot be applied"),
        ({"tokens": {"embedding_dim": 1 << 40}}, "the tokens have 1099511627776 features"),
        ({"descriptor": {"name": "prototypes", "clusters": 3, "mean_token": True}}, "cannot be appended to prototypes"),
    ):
        shutil.copytree(tmp_path / "there", tmp_path / "harmed")
        origin_of(**damage)(tmp_path / "harmed")
        with pytest.raises(UsageError, match=said):
            read_bundle(tmp_path / "harmed")
        shutil.rmtree(tmp_path / "harmed")


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    _, (bundle,) = evaluated(task_of(COHORT), "probe", descriptor=ChosenDescriptor("histogram", 3))
    folder = tmp_path_factory.mktemp("described") / "model"
    write_bundle(folder, bundle, "")
    return folder


def origin_of(**values: Any) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        found = json.loads((folder / "bundle.json").read_text())["representation"]
        change(representation=found | values)(folder)

    return changed


DESCRIPTORS_DAMAGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "none": (origin_of(descriptor=None), "descriptors of the heads are missing or not needed"),
    "unknown": (origin_of(descriptor={"name": "x", "clusters": 3}), "descriptor: got x"),
    "another": (origin_of(descriptor={"name": "mixture", "clusters": 3}), "does not describe a bundle .KeyError"),
    "not fitted": (origin_of(descriptor={"name": "mean", "clusters": 0}), "missing or not needed"),
    "many prototypes": (origin_of(descriptor={"name": "histogram", "clusters": 10**9}), "has 1000000000 prototypes"),
}


@pytest.mark.parametrize("damage", DESCRIPTORS_DAMAGED)
def test_a_descriptor_that_does_not_fit_is_refused(described: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(described, tmp_path / "model")
    harm, said = DESCRIPTORS_DAMAGED[damage]
    harm(tmp_path / "model")
    with pytest.raises(UsageError, match=said):
        read_bundle(tmp_path / "model")


def sign_again(folder: Path) -> None:
    """As somebody would who changes a file and its digest."""
    lines = [line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()]
    (folder / "SHA256SUMS").write_text("".join(f"{sha256(folder / name)}  {name}\n" for name in lines))


def change(**values: Any) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        path = folder / "bundle.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
        sign_again(folder)

    return changed


def cut(name: str) -> Callable[[Path], None]:
    def shortened(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:-9])

    return shortened


def flip(name: str) -> Callable[[Path], None]:
    def flipped(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[-3] ^= 1
        (folder / name).write_bytes(content)

    return flipped


def tensors(file: str, alter: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Change tensors, as somebody would who signs the file again."""

    def altered(folder: Path) -> None:
        found = {name: np.array(values) for name, values in load_file(folder / file).items()}
        alter(found)
        save_file(found, folder / file)
        sign_again(folder)

    return altered


def not_a_number(found: dict[str, Any]) -> None:
    name = next(name for name, values in found.items() if values.dtype.kind == "f")
    found[name].flat[0] = np.nan


def fewer_rows(found: dict[str, Any]) -> None:
    found["known_means"] = found["known_means"][:3]


def deep(folder: Path) -> None:
    (folder / "bundle.json").write_text("[" * 200_000)
    sign_again(folder)


def huge_header(folder: Path) -> None:
    (folder / "heads.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    sign_again(folder)


def decision(kind: str = "threshold", threshold: float = 0.5) -> dict[str, Any]:
    return {"kind": kind, "classes": ["a", "b"], "threshold": threshold}


def classes(*names: str | None) -> dict[str, Any]:
    return decision() | {"classes": names}


def temperature(value: float) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        heads = json.loads((folder / "bundle.json").read_text())["heads"]
        change(heads=[head | {"temperature": value} for head in heads])(folder)

    return changed


def sparse(folder: Path) -> None:
    """A file whose header claims the terabytes that it has: they were never written."""
    header = json.dumps({"a": {"dtype": "U8", "shape": [1 << 40], "data_offsets": [0, 1 << 40]}}).encode()
    with (folder / "heads.safetensors").open("wb") as handle:
        handle.write(len(header).to_bytes(8, "little") + header)
        handle.truncate(8 + len(header) + (1 << 40))


def huge(name: str) -> Callable[[Path], None]:
    def grown(folder: Path) -> None:
        with (folder / name).open("r+b") as handle:
            handle.truncate(1 << 40)  # takes no room, but a digest of it would take an hour

    return grown


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no json": (lambda folder: (folder / "bundle.json").unlink(), "incomplete bundle: bundle.json is missing"),
    "no heads": (lambda folder: (folder / "heads.safetensors").unlink(), "heads.safetensors is missing"),
    "no digests": (lambda folder: (folder / "SHA256SUMS").unlink(), "SHA256SUMS is missing, which is written last"),
    "cut": (cut("heads.safetensors"), "heads.safetensors is not the file that was written"),
    "flipped": (flip("training.safetensors"), "training.safetensors is not the file that was written"),
    "json": (cut("bundle.json"), "cannot be read as JSON"),
    "another version": (change(schema_version=7), "version 7, written by slpd_toolkit .*reads versions 1, 2"),
    "version that only equals one": (change(schema_version=True), "is a bundle of version True"),
    "version that is no integer": (change(schema_version=1.0), "is a bundle of version 1.0"),
    "another decision": (change(decision=decision("value")), "decides by 'value', but its heads need threshold"),
    "threshold that is not a number": (change(decision=decision(threshold=np.nan)), "a threshold is not a number"),
    "threshold beyond 1": (change(decision=decision(threshold=1e300)), "a threshold is not a number from 0 to 1"),
    "negative threshold": (change(decision=decision(threshold=-1)), "a threshold is not a number from 0 to 1"),
    "false-alarm rate": (change(distance={"false_alarm_rate": -1}), "the false-alarm rate is -1"),
    "another schema": (change(schema="x"), "is not a bundle: schema 'x'"),
    "unknown aggregator": (change(aggregator="x"), "got x, allowed: abmil"),
    "no aggregator": (change(aggregator=None), "allowed: abmil"),
    "another aggregator": (change(aggregator="probe"), "missing or not needed"),
    "no heads listed": (change(heads=[]), "its heads are none"),
    "heads that are not there": (change(heads=[{"name": "9.9"}]), "does not describe a bundle"),
    "tensor that is not a number": (tensors("heads.safetensors", not_a_number), "not finite"),
    "training set that is not a number": (tensors("training.safetensors", not_a_number), "not finite"),
    "fewer training slides than the heads refer to": (tensors("training.safetensors", fewer_rows), "cannot be applied"),
    "tensor that is missing": (
        tensors("training.safetensors", lambda found: found.pop("axes")), "does not describe a bundle"
    ),
    "huge tensors": (huge("heads.safetensors"), "heads.safetensors is not the file that was written"),
    "huge tensors that a header claims": (sparse, "cannot be read .*almost none of its 1,099"),
    "huge json": (huge("bundle.json"), "cannot be read as JSON .it has 1,099,511,627,776 bytes"),
    "huge digests": (huge("SHA256SUMS"), "SHA256SUMS cannot be read .it has 1,099,511,627,776 bytes"),
    "huge header": (huge_header, "heads.safetensors"),
    "name that leads out of the folder": (change(model="../../evil"), "the model is named '../../evil'"),
    "hidden name": (change(model=".x"), "the model is named '.x'"),
    "nested too deeply": (deep, "cannot be read as JSON"),
    "class without a name": (change(decision=classes("a", "")), "its classes are .'a', ''."),
    "class that is no text": (change(decision=classes("a", None)), "its classes are .'a', None."),
    "a class twice": (change(decision=classes("a", "a")), "its classes are .'a', 'a'., and those of its"),
    "classes of another task": (change(decision=classes("a", "c")), "its classes are .'a', 'c'., and those of its"),
    "temperature": (temperature(1e300), "the temperature of head 0.0 is 1e.300"),
    "classes": (change(decision=classes("a")), "its classes are .'a'., and those of its task"),
    "a list": (change(representation=[]), "incomplete|does not describe a bundle"),
    "width": (
        change(
            representation={
                "kind": "table", "source": "", "digest": "", "width": 3, "view": "full", "precision": "fp32",
                "tokens": {}, "recipe": {},
            }
        ),
        "features, not 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_incomplete_and_hostile_bundles_are_refused(damage: str, written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(written, folder)
    assert read_bundle(folder).digest
    harm, message = DAMAGE[damage]
    harm(folder)
    with pytest.raises(UsageError, match=message):
        read_bundle(folder)


def test_the_card_may_be_edited(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(written, folder)
    (folder / "MODEL_CARD.md").write_text("Contact: us.")
    assert read_bundle(folder).aggregator == "knn"


@pytest.mark.parametrize("name", ["model", "aggregator"])
@pytest.mark.parametrize("value", [None, [], {}, 1, True])
def test_a_name_that_is_no_text_is_refused_while_a_bundle_is_chosen(
    written: Path, tmp_path: Path, name: str, value: object
) -> None:
    shutil.copytree(written, tmp_path / "model")
    change(**{name: value})(tmp_path / "model")
    with pytest.raises(UsageError, match=r"has no bundle of m, knn\. It has: .* with"):
        choose_bundle(tmp_path, "m", "knn")


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a bundle"):
        read_bundle(tmp_path)
