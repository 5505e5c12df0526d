"""Scores of single regions by class: trained heads applied to each region of a slide as if it were the only one."""

from __future__ import annotations

import csv
import json
import threading
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch

from slpd_toolkit.core import compute
from slpd_toolkit.core.errors import SlpdError, UsageError
from slpd_toolkit.core.failures import FILENAME, FailureLog
from slpd_toolkit.core.text import count
from slpd_toolkit.mil.bundle.files import ABOUT
from slpd_toolkit.mil.bundle.reading import find_bundles, read_bundle
from slpd_toolkit.mil.heads.head import load_head
from slpd_toolkit.representations.bundled import differences_from
from slpd_toolkit.representations.new_slides import represent_tokens
from slpd_toolkit.representations.opening import InferenceOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from slpd_toolkit.mil.arrays import FloatArray
    from slpd_toolkit.mil.bags import Bags
    from slpd_toolkit.mil.bundle.bundle import Bundle, BundledHead
    from slpd_toolkit.store.token_file import TokenFile

FOLDS = "folds.csv"
_BUNDLES = 2


@dataclass(frozen=True, eq=False)
class RegionScores:
    """Outputs of heads for R regions."""

    classes: tuple[str, ...]
    """Names of the C outputs: classes, or `risk`, or `predicted`."""
    values: FloatArray
    """(R, C) mean over heads."""
    about: str
    """Which heads were used."""


class RegionScorer:
    """Heads of evaluations, for regions. Thread-safe; bundles are read when they are first used.

    Args:
        evaluations: Folders of `slpd mil-eval`, by their shown names.
        file_of: Returns the token file of a slide; None if there is none.
        device: Device of region ViTs.
    """

    def __init__(
        self, evaluations: Mapping[str, Path], file_of: Callable[[str], TokenFile | None], device: torch.device
    ) -> None:
        self._file_of, self._device = file_of, device
        self._found = {
            " · ".join((name, *_model_and_aggregator(bundle))): (folder, bundle)
            for name, folder in evaluations.items()
            for bundle in find_bundles(folder).values()
            if _uses_regions(bundle)
        }
        self._read = lru_cache(_BUNDLES)(read_bundle)
        self._held_out = lru_cache(None)(held_out_folds)
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models: evaluation, representation and aggregator."""
        return tuple(self._found)

    def scores(self, name: str, slide_id: str) -> RegionScores:
        """Score every region of a slide with the heads in whose folds it was tested, or with all if there are none.

        Raises:
            UsageError: The bundle is damaged, the slide has no tokens, or they differ from the bundle's.
            CacheError: The token file is damaged.
        """
        folder, path = self._found[name]
        file = self._file_of(slide_id)
        if file is None or not len(file):
            raise UsageError(f"{slide_id} has no tokens, which heads need.", hint="Use --cache.")
        with self._lock:
            bundle = self._read(path)
            difference = differences_from(bundle.origin, file.meta)
            if difference:
                raise UsageError(f"Its tokens differ from those that the heads were trained on: {difference}.")
            held_out = self._held_out(folder).get(slide_id, frozenset())
            heads = [head for head in bundle.ensemble if head.name in held_out]
            whose = f"heads that did not see this slide in training ({len(heads)} of {len(bundle.ensemble)})"
            if not heads:
                heads = list(bundle.ensemble)
                whose = f"all {count(len(heads), 'head')}; none was tested on this slide"
            return score_regions(bundle, heads, self._embed(bundle, file), whose)

    def _embed(self, bundle: Bundle, file: TokenFile) -> Bags:
        precision = compute.resolve_precision("auto", self._device)
        with TemporaryDirectory() as place:
            failures = FailureLog(Path(place) / FILENAME)
            options = InferenceOptions(precision, bundle.origin.view, 0, Path(place))
            found = represent_tokens(bundle, [file], options, self._device, 1, failures)
            if found is None:
                raise SlpdError(failures.rows[0].error, hint=failures.rows[0].hint)
        return found.bags


def score_regions(bundle: Bundle, heads: Sequence[BundledHead], bags: Bags, whose: str) -> RegionScores:
    """Apply heads to each region as if it were a slide.

    Args:
        bundle: The bundle.
        heads: Heads of it, at least one.
        bags: One slide.
        whose: Description of the heads.
    """
    regions = len(bags.features)
    single = replace(bags, slides=tuple(map(str, range(regions))), offsets=np.arange(regions + 1, dtype=np.int64))
    head_class, known = load_head(bundle.aggregator), bundle.known()
    outputs = []
    with torch.inference_mode():
        for head in heads:
            described, of_training = bundle.inputs_of(head, single, known)
            logits, _ = head_class.apply(head.state, described, np.arange(regions), of_training)
            outputs.append(head.readout(logits.double()).double().numpy())  # as in predictions.csv, without temperature
    values = np.mean(outputs, axis=0)
    kind = heads[0].readout.kind
    names = bundle.decision.classes or (("risk",) if kind == "risk" else ("predicted",))
    return RegionScores(names, values[:, : len(names)], whose)


def held_out_folds(folder: Path) -> dict[str, frozenset[str]]:
    """Return the folds that tested each slide, as names of heads (`<repeat>.<fold>`); empty without folds.csv."""
    path = folder / FOLDS
    if not path.is_file():
        return {}
    found: dict[str, set[str]] = {}
    with path.open(newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            if row.get("part") == "test":
                found.setdefault(row["slide_id"], set()).add(f"{row['repeat']}.{row['fold']}")
    return {slide: frozenset(names) for slide, names in found.items()}


def _document(bundle: Path) -> dict[str, object]:
    try:
        found = json.loads((bundle / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _model_and_aggregator(bundle: Path) -> tuple[str, str]:
    document = _document(bundle)
    return str(document.get("model", bundle.name)), str(document.get("aggregator", ""))


def _uses_regions(bundle: Path) -> bool:
    origin = _document(bundle).get("representation")
    return isinstance(origin, dict) and origin.get("kind") != "table"
