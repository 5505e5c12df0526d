"""Prototypes of further slides in the space of a run: as `slpd pretrain` makes them, with the run's final teacher."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from slpd_toolkit.config.pretrain import PretrainConfig
from slpd_toolkit.config.recipe import typed
from slpd_toolkit.config.settings import assemble, settings_of
from slpd_toolkit.core import compute
from slpd_toolkit.core.errors import UsageError, WeightsError
from slpd_toolkit.core.vectors import kmeans, one_faiss_thread
from slpd_toolkit.mil.descriptors.kinds.prototypes import unit_rows
from slpd_toolkit.mil.set_similarity import Sets
from slpd_toolkit.models.network import RegionNetwork
from slpd_toolkit.models.region_vit import REGION_VIT
from slpd_toolkit.models.weights import load_strict, read_checkpoint
from slpd_toolkit.representations.opening import require_fit
from slpd_toolkit.store.centered_tokens import CenteredTokens
from slpd_toolkit.store.cohort_tokens import CohortTokens
from slpd_toolkit.store.streaming import in_parts, map_regions
from slpd_toolkit.store.token_file import TokenFile, TokenStore
from slpd_toolkit.training.epoch_prototypes import embed_centre
from slpd_toolkit.training.run_folder import LAST

if TYPE_CHECKING:
    import numpy.typing as npt


_TEACHER = "teacher."
_PROJECTION = "backbone.phi.0.weight"


class SlidePrototypes(NamedTuple):
    """Prototypes of one slide with R regions."""

    sets: Sets
    """Unit vectors, (1, K, d), and the shares of the slide's regions, (1, K)."""
    cluster: npt.NDArray[np.int64]
    """(R,) index of each region's prototype."""
    cosine: npt.NDArray[np.float32]
    """(R,) cosine similarity of each region and its prototype."""
    file: TokenFile
    """The slide's tokens."""


def prototypes_of_file(run: Path, path: Path, *, device: str = "auto", workers: int = 2) -> SlidePrototypes:
    """Embed the regions of a token file with the teacher of a run, and cluster them as the run clusters slides.

    Args:
        run: Run folder with last.pt, which has the teacher's head.
        path: Token file of one slide.
        device: Device of the teacher.
        workers: Number of threads that read tokens ahead.

    Raises:
        UsageError: The run has no last.pt, or the tokens are not of the kind that the run was trained on.
        WeightsError: last.pt cannot be read.
        CacheError: The token file cannot be read.
    """
    network, config = _teacher(run / LAST)
    file = TokenFile.open(path)
    if not len(file):
        raise UsageError(f"{path}: the slide has no regions.", hint="Lower --min-tissue of `slpd embed`.")
    provenance = read_checkpoint(run / REGION_VIT).get("provenance", {}) if (run / REGION_VIT).exists() else {}
    require_fit(str(run), network.backbone, file.meta, provenance)
    store = TokenStore([file])
    where = compute.resolve_device(device)
    network.to(where)

    embed = torch.inference_mode()(partial(embed_centre, network, config.crops.global_side))
    with closing(CohortTokens(store)) as plain, torch.inference_mode():
        tokens = CenteredTokens(store, plain) if config.region_vit.centering == "slide" else plain
        parts = in_parts(np.arange(len(tokens)))
        features = torch.cat(list(map_regions(embed, tokens, parts, device=where, workers=workers)))
        bottleneck = F.normalize(network.head.bottleneck(features).float(), dim=-1).cpu().numpy()
    of_backbone = config.prototypes.cluster_features == "backbone"
    clustered = unit_rows(features.float().cpu().numpy()) if of_backbone else bottleneck
    sets, cluster = _clustered(clustered, bottleneck, config.prototypes.clusters, config.running.seed)
    cosine = (bottleneck * sets.vectors[0, cluster]).sum(axis=1)
    return SlidePrototypes(sets, cluster, cosine, file)


def cache_of_run(run: Path) -> Path:
    """Return the token cache that a run was trained on, as its state names it.

    Raises:
        UsageError: The run has no last.pt.
        WeightsError: last.pt cannot be read.
    """
    return Path(_teacher(run / LAST)[1].cache)


def _clustered(
    features: npt.NDArray[np.float32], bottleneck: npt.NDArray[np.float32], clusters: int, seed: int
) -> tuple[Sets, npt.NDArray[np.int64]]:
    """Cluster (R, D) features; return the K' <= `clusters` used prototypes, and the prototype of each region."""
    count = len(features)
    if count <= clusters:
        return Sets(bottleneck[None], np.full((1, count), 1 / count, np.float32)), np.arange(count)
    with one_faiss_thread():
        centroids, assigned = kmeans(features, clusters, seed=seed)
    used, cluster, counts = np.unique(assigned, return_inverse=True, return_counts=True)
    if features is not bottleneck:
        centroids = np.stack([bottleneck[assigned == k].mean(axis=0) for k in used])
    else:
        centroids = centroids[used]
    return Sets(unit_rows(centroids)[None], (counts / count).astype(np.float32)[None]), cluster.astype(np.int64)


def _teacher(path: Path) -> tuple[RegionNetwork, PretrainConfig]:
    if not path.exists():
        raise UsageError(
            f"{path} does not exist; the teacher's head is needed to embed a new slide.",
            hint="Copy last.pt of the run, or search by vectors of `slpd represent`.",
        )
    checkpoint = read_checkpoint(path)
    try:
        recipe, state = checkpoint["recipe"], checkpoint["slpd"]
        known = settings_of(PretrainConfig)
        config = assemble(
            PretrainConfig, {name: typed(value, known[name].type) for name, value in recipe.items() if name in known}
        )
        teacher = {name.removeprefix(_TEACHER): value for name, value in state.items() if name.startswith(_TEACHER)}
        width = int(teacher[_PROJECTION].shape[1])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise WeightsError(
            f"{path} is not a checkpoint of a run ({error}).", hint="Use last.pt of `slpd pretrain`."
        ) from error
    network = RegionNetwork(
        config.region_vit,
        config.dino_head,
        input_dim=width,
        grid=config.crops.global_side,
        masks=config.objective.uses_masks,
    )
    load_strict(network, teacher, path)
    return network.eval(), config
