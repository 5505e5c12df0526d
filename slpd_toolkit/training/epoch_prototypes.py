"""Prototypes between epochs: embed every region with the teacher, then cluster and match the slides."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from slpd_toolkit.objectives.crops import centre_crop
from slpd_toolkit.objectives.slide_prototypes import build_bank
from slpd_toolkit.store.streaming import REGIONS_AT_ONCE, in_parts, map_regions

if TYPE_CHECKING:
    from torch import Tensor

    from slpd_toolkit.config.pretrain import PretrainConfig
    from slpd_toolkit.models.network import RegionNetwork
    from slpd_toolkit.objectives.slide_prototypes import PrototypeBank
    from slpd_toolkit.store.cohort_tokens import CohortTokens
    from slpd_toolkit.store.streaming import RegionBatch
    from slpd_toolkit.training.processes import Processes
    from slpd_toolkit.training.signals import StopRequest


def embed_centre(network: RegionNetwork, side: int, batch: RegionBatch) -> Tensor:
    """Embed the central crops of regions as the head sees them, (R, F)."""
    present = None if batch.present is None else centre_crop(batch.present, side)
    projected = network.backbone.project(centre_crop(batch.tokens.float(), side), present)
    return network.backbone.outputs(projected, present=present)


@torch.inference_mode()
def embed_cohort(
    network: RegionNetwork,
    tokens: CohortTokens,
    side: int,
    processes: Processes,
    workers: int,
    stop: StopRequest,
) -> tuple[Tensor, Tensor]:
    """Embed the central crop of every region in float32. Each process embeds its share.

    Args:
        network: The teacher, in eval mode.
        tokens: All regions.
        side: Side length of the crop, in tokens: that of the global views.
        processes: All processes; each receives the whole result.
        workers: Number of threads that read ahead.
        stop: Checked after each batch.

    Returns:
        (R, F) region embeddings, as the head sees them, and (R, d) bottleneck unit vectors, float32 on the device.

    Raises:
        Stopped: The run was asked to stop.
    """
    device = processes.device
    parts = in_parts(np.arange(len(tokens))[processes.share(len(tokens))])

    def embed_share() -> Tensor:
        made = [torch.empty(0, network.backbone.config.head_dim, device=device)]
        with closing(
            map_regions(partial(embed_centre, network, side), tokens, parts, device=device, workers=workers)
        ) as batches:
            for features in batches:
                made.append(features)
                stop.leave_if_asked()
        return torch.cat(made)

    features = processes.gather(processes.unless_stopped(stop, embed_share), len(tokens))
    bottleneck = torch.cat([network.head.bottleneck(part) for part in torch.split(features, REGIONS_AT_ONCE)])
    return features, F.normalize(bottleneck.float(), dim=-1)


def make_prototypes(
    config: PretrainConfig,
    network: RegionNetwork,
    tokens: CohortTokens,
    processes: Processes,
    stop: StopRequest,
) -> tuple[PrototypeBank, Tensor]:
    """Embed, cluster and match the cohort with the current teacher.

    Every process clusters the same values with the same seed, and therefore obtains the same bank.

    Returns:
        The bank, and the (R, d) bottleneck vectors it was built from, both on the device.

    Raises:
        UsageError: Too few slides have enough regions.
        Stopped: The run was asked to stop; nothing has changed.
    """
    features, bottleneck = embed_cohort(
        network, tokens, config.crops.global_side, processes, config.running.workers, stop
    )
    cluster = partial(
        build_bank,
        bottleneck,
        torch.from_numpy(tokens.slide_of_region),
        config.prototypes,
        backbone=features,
        seed=config.running.seed,
        before_each=stop.leave_if_asked,
    )
    return processes.unless_stopped(stop, cluster).to(processes.device), bottleneck
