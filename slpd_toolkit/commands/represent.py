"""`slpd represent`: one vector, or one set of weighted prototypes, per slide or per patient."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.folder_lock import working_in, writing_to
from slpd_toolkit.core.manifest import read_table
from slpd_toolkit.core.text import agree, count
from slpd_toolkit.foreign.anndata_parquet import require_extra
from slpd_toolkit.mil.bags import Bags
from slpd_toolkit.mil.descriptors.descriptor import ChosenDescriptor
from slpd_toolkit.representations.collapse import collapse_warning
from slpd_toolkit.representations.region_embeddings import embed_regions
from slpd_toolkit.representations.slide_vectors import describe_slides
from slpd_toolkit.representations.sound_slides import open_sound, report_failures
from slpd_toolkit.representations.vector_files import require_file_names, require_own_folder, write_vectors
from slpd_toolkit.store.selection import select_slides
from slpd_toolkit.store.token_file import TokenStore

if TYPE_CHECKING:
    from slpd_toolkit.config.represent import RepresentConfig
    from slpd_toolkit.representations.slide_vectors import SlideVectors

STAGE = "represent"
_EXTRAS = {".parquet": "parquet", ".h5ad": "anndata"}


def run(config: RepresentConfig) -> int:
    """Write the descriptors of all chosen slides; see `make`.

    Returns:
        0, or 1 if the token files of some slides could not be read; failures.csv lists them.
    """
    return 1 if make(config).failures else 0


def make(config: RepresentConfig) -> SlideVectors:
    """Compute the descriptors of all chosen slides or their patients, and write them.

    A slide whose token file is damaged is left out and listed: in failures.csv in the folder `config.out`, or in
    <out>.failures.csv next to a file.

    Raises:
        UsageError: The model does not fit the cache, the manifest does not fit it, an extra is missing, or another
            process writes the output.
        WeightsError: The model's file is not a region ViT.
        CacheError: The cache is empty or mixed, or no slide can be read.
    """
    _require_place(config)
    with (writing_to if config.out.suffix else working_in)(config.out, "represent"):
        return _make(config)


def _make(config: RepresentConfig) -> SlideVectors:
    chosen = ChosenDescriptor(config.as_, config.clusters, config.append_mean_token)
    descriptor = chosen.load()
    if config.append_mean_token and descriptor.is_set:
        raise UsageError(
            f"--append-mean-token: got --as {config.as_}, allowed: descriptors that are one vector, such as mean.",
            hint=f"{config.as_} is a set of vectors, which are compared by their cosine with those of other slides.",
        )
    if config.clusters and not descriptor.clusters:
        raise UsageError(
            f"--clusters: got {config.clusters}, allowed: nothing, because {config.as_} has no prototypes."
        )
    if config.fit_where and not descriptor.is_fitted:
        raise UsageError(
            f"--fit-where: got {', '.join(config.fit_where)}, allowed: nothing, because {config.as_} is not fitted."
        )
    whole, failures = open_sound(config.cache, STAGE)
    wanted = select_slides(whole, config.manifest, config.where)
    fit_on = select_slides(whole, config.manifest, config.fit_where) if config.fit_where else wanted
    both = {*wanted.slide_ids, *fit_on.slide_ids}
    store = TokenStore([file for file in whole.files if file.meta.slide_id in both], whole.folder)
    patient_of = _patients(config.manifest or _manifest_of(whole)) if config.per == "patient" else None
    if not config.out.suffix:
        require_file_names(
            [patient_of.get(each, each) if patient_of else each for each in wanted.slide_ids], config.out
        )
    found = embed_regions(
        store,
        config.model,
        precision=config.precision,
        device=config.device,
        workers=config.workers,
        failures=failures,
        stage=STAGE,
        mean_tokens=config.append_mean_token,
    )
    offsets = np.concatenate([[0], np.cumsum(found.lengths)]).astype(np.int64)
    regions = Bags(found.slide_ids, found.values, offsets, appended=found.mean_tokens)
    vectors = describe_slides(
        regions,
        chosen,
        _positions(regions, fit_on),
        _positions(regions, wanted),
        patient_of=patient_of,
        seed=config.seed,
        provenance=found.provenance,
    )
    write_vectors(vectors, config.out)
    report_failures(config.out, failures)
    _tell(config, vectors, wanted)
    return replace(vectors, failures=tuple(failure.slide_id for failure in failures))


def _require_place(config: RepresentConfig) -> None:
    """Check that the output can be written, before anything is computed."""
    if not config.out.suffix:
        require_own_folder(config.out)
        return
    require_extra(_EXTRAS[config.out.suffix])
    if not config.out.parent.is_dir() or config.out.is_dir():
        raise UsageError(f"--out: got {config.out}, allowed: a {config.out.suffix} file in a folder that exists.")


def _patients(manifest: Path) -> dict[str, str]:
    table = read_table(manifest, required=("slide_id", "patient_id"))
    return {slide: patient or slide for slide, patient in zip(table["slide_id"], table["patient_id"], strict=True)}


def _manifest_of(store: TokenStore) -> Path:
    """Return the manifest that `slpd embed` made the cache from.

    Raises:
        UsageError: The cache does not name it, or it no longer exists.
    """
    named = json.loads(store.meta.recipe).get("manifest")
    if not isinstance(named, str) or not Path(named).is_file():
        raise UsageError(
            "--per: got patient, allowed: slide, because the patients are not known"
            + (f" ({named}, from which the cache was embedded, does not exist)." if named else "."),
            hint="Add --manifest CSV with the columns slide_id and patient_id.",
        )
    console.note(f"Patients are those of {named}, from which the cache was embedded.")
    return Path(named)


def _positions(regions: Bags, store: TokenStore) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    wanted = set(store.slide_ids)
    return np.array([index for index, slide in enumerate(regions.slides) if slide in wanted], np.int64)


def _tell(config: RepresentConfig, vectors: SlideVectors, wanted: TokenStore) -> None:
    """Print what was written, and which slides it was fitted on."""
    empty = [file.meta.slide_id for file in wanted.files if not len(file)]
    if empty:
        console.warn(
            f"{count(len(empty), 'slide has', 'slides have')} no regions and {agree(len(empty), 'is', 'are')} left "
            f"out, such as {empty[0]}."
        )
    if not vectors.is_set:
        console.warn_if(collapse_warning(vectors.descriptor, vectors.bags.slides, vectors.bags.features))
    if vectors.fitted_on:
        also = len(set(vectors.fitted_on) & set(wanted.slide_ids))
        console.note(
            f"{vectors.descriptor} was fitted on {count(len(vectors.fitted_on), 'slide')}, {also:,} of which it "
            "describes. "
            + (
                f"For an evaluation on these, `slpd mil-eval --model {config.model}#{vectors.descriptor}` fits it in "
                "each fold."
                if also
                else "The evaluation may use the slides that it describes."
            )
        )
    console.note(f"Wrote {len(vectors):,} {vectors.per}s to {config.out}.")
