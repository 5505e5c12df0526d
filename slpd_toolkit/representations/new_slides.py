"""New slides for the heads of a bundle: their token files or vectors, checked, and what cannot be used."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import CacheError, UsageError
from slpd_toolkit.core.failures import Failure
from slpd_toolkit.core.files import is_safe_name
from slpd_toolkit.core.text import count
from slpd_toolkit.representations.bundled import differences_from, mask_warning
from slpd_toolkit.representations.models import Cache
from slpd_toolkit.representations.opening import open_origin
from slpd_toolkit.representations.vector_sources import open_table
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.token_file import TokenFile, TokenStore, open_token_files, token_paths

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    import torch

    from slpd_toolkit.core.failures import FailureLog
    from slpd_toolkit.mil.bundle.bundle import Bundle
    from slpd_toolkit.mil.statistics.results import Representation
    from slpd_toolkit.representations.opening import InferenceOptions

STAGE = "predict"
_EMBED = "Embed the slide again."


def open_tokens(bundle: Bundle, folder: Path, wanted: Collection[str] | None, failures: FailureLog) -> list[TokenFile]:
    """Open the token files that can be predicted, by slide ID, and record the others.

    Args:
        bundle: Bundle that the tokens must fit.
        folder: The token cache.
        wanted: Slides to predict; None for all.
        failures: Where slides that cannot be used are recorded; those that are there already are not added.

    Raises:
        UsageError: No file fits the bundle; both sides are named. Or the cache is empty.
    """
    paths = [path for path in token_paths(folder) if wanted is None or path.stem in wanted]
    if wanted is None and not paths:
        raise UsageError(f"Token cache {folder} has no token file (*.h5).", hint="Write one with `slpd embed`.")
    opened = list[TokenFile]()
    for path, found in zip(paths, open_token_files(folder, paths), strict=True):
        if isinstance(found, CacheError):
            failures.add(Failure.of(STAGE, path.stem, path, found))
        else:
            opened.append(found)
    files = {file.meta.slide_id: file for file in opened if wanted is None or file.meta.slide_id in wanted}
    differences = {slide: differences_from(bundle.origin, file.meta) for slide, file in files.items()}
    if files and all(differences.values()):
        raise UsageError(
            f"The bundle {bundle.model}, {bundle.aggregator} was trained on tokens that differ from those in {folder}: "
            f"{next(iter(differences.values()))}.",
            hint="Predict tokens of the same encoder and geometry, or pass the slides and let `slpd predict` embed "
            "them.",
        )
    for slide, difference in differences.items():
        if difference:
            failures.add(
                Failure(STAGE, slide, str(folder), f"Its tokens differ from the bundle's: {difference}.", _EMBED)
            )
        elif not len(files[slide]):
            failures.add(Failure(STAGE, slide, str(files[slide].path), "The slide has no region.", _EMBED))
    masked = "mask_mode" in bundle.origin.recipe
    if bundle.origin.recipe:
        console.warn_if(mask_warning(list(files.values()), trained=masked))
    known = {failure.slide_id for failure in failures.rows} | files.keys()
    for slide in sorted(set(wanted or ()) - known):
        failures.add(Failure(STAGE, slide, str(folder), f"The slide is not in {folder}.", "Embed it first."))
    return [files[slide] for slide in sorted(files) if not differences[slide] and len(files[slide])]


def represent_tokens(
    bundle: Bundle,
    files: Sequence[TokenFile],
    options: InferenceOptions,
    device: torch.device,
    workers: int,
    failures: FailureLog,
) -> Representation | None:
    """Embed the regions of slides; slides whose tokens are damaged are recorded and left out.

    Args:
        bundle: The bundle, with the region ViT.
        files: From `open_tokens`.
        options: Inference settings; region embeddings are stored in `options.out`.
        device: Device of the region ViT.
        workers: Number of threads that read ahead.
        failures: Where slides that fail are recorded.

    Returns:
        The bags with coordinates; None if no slide is left.
    """
    if not files:
        return None
    store = TokenStore(files)
    with closing(CohortTokens(store)) as tokens:
        model = open_origin(bundle.model, bundle.origin, Cache(store, tokens, device, workers), options)
        slides = [file.meta.slide_id for file in files]
        with console.progress("embed", total=sum(map(len, files)), unit="regions") as bar:
            try:
                return model.represent(slides, bar)
            except CacheError:
                sound = [file for file in files if _is_sound(file, failures)]
                if len(sound) == len(files):
                    raise
    return represent_tokens(bundle, sound, options, device, workers, failures)


def represent_vectors(
    bundle: Bundle,
    path: Path,
    wanted: Collection[str] | None,
    no_features: Collection[str],
    patient_of: Mapping[str, str] | None,
    failures: FailureLog,
) -> Representation | None:
    """Read the vectors of slides.

    Args:
        bundle: Bundle that the vectors must fit.
        path: Table of slide vectors, or what `slpd mil-eval --model` takes instead.
        wanted: Slides to predict; None for all.
        no_features: Columns of the manifest, which are not features.
        patient_of: Patient of each slide; None if it is not known.
        failures: Where slides without a vector are recorded.

    Raises:
        UsageError: The table cannot be read, or has another width than the vectors of the bundle.
    """
    table = open_table(bundle.model, path, no_features=no_features, patient_of=patient_of)
    width = next(iter(table.vectors.values())).shape[1]
    if width != bundle.origin.width:
        raise UsageError(
            f"--vectors: {path} has vectors of {count(width, 'number')}, but the bundle was trained on "
            f"{bundle.origin.width:,} ({bundle.origin.source}).",
            hint="Compute the same features in the same order.",
        )
    chosen = sorted(table.slides if wanted is None else set(wanted) & set(table.slides))
    for slide in sorted(set(wanted or ()) - set(table.slides)):
        failures.add(Failure(STAGE, slide, str(path), f"The slide is not in {path}.", "Add its vector."))
    for slide in [slide for slide in chosen if not is_safe_name(slide)]:
        error = f"{slide!r} is not a valid slide ID."
        failures.add(Failure(STAGE, slide, str(path), error, "Use letters, digits, `.`, `_` and `-`."))
        chosen.remove(slide)
    if not chosen:
        return None
    with console.progress("read", total=len(chosen), unit="slides", shown=False) as bar:
        return table.represent(chosen, bar)


def _is_sound(file: TokenFile, failures: FailureLog) -> bool:
    try:
        file.verify()
    except CacheError as error:
        failures.add(Failure.of(STAGE, file.meta.slide_id, file.path, error))
        return False
    return True
