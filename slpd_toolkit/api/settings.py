"""The settings of every command as types. Written by `python -m slpd_toolkit.api.write_settings`."""

import os
from collections.abc import Sequence
from typing import Literal, TypedDict

StrPath = str | os.PathLike[str]


class EmbedSettings(TypedDict, total=False):
    """Settings of `EmbedConfig`."""

    recipe: StrPath | None
    out: StrPath
    slides_root: StrPath | None
    encoder: StrPath | Sequence[StrPath]
    weights: StrPath | None
    allow_download: bool
    mean: str
    std: str
    pooling: str
    mpp: float | None
    region_px: int | None
    patch_px: int | None
    min_tissue: float
    max_upsample: float
    allow_missing_pixels: bool
    stain_views: int
    mask_mode: Literal["only", "and", "not"]
    mask_classes: str
    mask_crop: bool
    tissue_only: bool
    batch_size: int
    precision: Literal["auto", "bf16", "fp16", "fp32"]
    device: str
    cluster: str
    workers: int
    stage_to: StrPath | None
    stage_gib: float
    seed: int
    shard: str
    overwrite: bool
    qc: bool


class ImportSettings(TypedDict, total=False):
    """Settings of `ImportConfig`."""

    recipe: StrPath | None
    out: StrPath
    tool: str
    coords: StrPath | None
    encoder_name: str
    mpp: float | None
    target_mpp: float | None
    region_px: int
    min_tissue: float
    tolerance: float
    manifest: StrPath | None
    limit: int
    overwrite: bool


class PretrainSettings(TypedDict, total=False):
    """Settings of `PretrainConfig`."""

    recipe: StrPath | None
    out: StrPath
    init: StrPath | None
    auto: StrPath | Sequence[StrPath]
    manifest: StrPath | None
    where: StrPath | Sequence[StrPath]
    epochs: int
    batch_size: int
    accumulate: int
    dino_weight: float
    intra_weight: float
    inter_weight: float
    masked_weight: float
    koleo_weight: float
    view_rule: Literal["paper", "published"]
    student_temp: float
    teacher_temp: float
    centre_momentum: float
    cluster_features: Literal["bottleneck", "backbone"]
    clusters: int
    min_regions: int
    neighbours: int
    correspondence: Literal["matched", "nearest"]
    prototype_epoch: int
    global_crops: int
    global_side: int
    local_crops: int
    local_side: int
    flip_left_right: float
    flip_up_down: float
    quarter_turns: float
    token_noise: float
    token_offset: float
    region_offset: float
    stain_views: int
    token_dropout: float
    block_mask: float
    masked_fraction: float
    embed_dim: int
    depth: int
    heads: int
    mlp_ratio: float
    weight_init: Literal["published", "fan-in"]
    centering: Literal["none", "slide"]
    whitening: Literal["none", "between-slides", "within-kinds", "wiener"]
    registers: int
    pooling: Literal["cls", "cls+mean", "cls+mean+input"]
    drop_path: float
    hidden_dim: int
    bottleneck_dim: int
    out_dim: int
    lr: float
    min_lr: float
    warmup_epochs: int
    weight_decay: float
    weight_decay_end: float
    teacher_momentum: float
    clip_grad: float
    freeze_last_layer: int
    precision: Literal["auto", "bf16", "fp16", "fp32"]
    device: str
    workers: int
    seed: int
    log_every: int
    save_every_min: float
    tensorboard: bool


class PretrainSlidesSettings(TypedDict, total=False):
    """Settings of `PretrainSlidesConfig`."""

    recipe: StrPath | None
    cache: StrPath
    out: StrPath
    manifest: StrPath | None
    where: StrPath | Sequence[StrPath]
    epochs: int
    batch_size: int
    accumulate: int
    content_weight: float
    slide_weight: float
    region_weight: float
    student_temp: float
    teacher_temp: float
    centre_momentum: float
    global_views: int
    local_views: int
    global_share: float
    local_share: float
    most_regions: int
    hidden: float
    embed_dim: int
    depth: int
    heads: int
    mlp_ratio: float
    steepest_slope: float
    centering: Literal["none", "slide"]
    drop_path: float
    hidden_dim: int
    bottleneck_dim: int
    out_dim: int
    lr: float
    min_lr: float
    warmup_epochs: int
    weight_decay: float
    weight_decay_end: float
    teacher_momentum: float
    clip_grad: float
    freeze_last_layer: int
    precision: Literal["auto", "bf16", "fp16", "fp32"]
    device: str
    workers: int
    seed: int
    log_every: int
    save_every_min: float
    tensorboard: bool


class MilEvalSettings(TypedDict, total=False):
    """Settings of `MilEvalConfig`."""

    recipe: StrPath | None
    manifest: StrPath
    model: StrPath | Sequence[StrPath]
    out: StrPath
    slides_root: StrPath | None
    where: StrPath | Sequence[StrPath]
    task: str
    target: StrPath | Sequence[StrPath]
    classes: StrPath | Sequence[StrPath]
    time_column: str | None
    event_column: str | None
    time_bins: int
    allow_missing: bool
    covariates: StrPath | Sequence[StrPath]
    split_kind: str | None
    folds: int | None
    repeats: int | None
    by_site: bool
    site_column: str
    fold_column: str | None
    splits: StrPath | Sequence[StrPath]
    train_fraction: float
    shots: int
    aggregator: StrPath | Sequence[StrPath]
    steps: int
    head_batch: int
    check_every: int
    patience: int
    lr: float
    weight_decay: float
    final: bool
    view: Literal["full", "centre"]
    precision: Literal["auto", "bf16", "fp16", "fp32"]
    device: str
    workers: int
    external: StrPath | Sequence[StrPath]
    external_manifest: StrPath | None
    unit: Literal["patient", "slide"]
    sensitivity: float | None
    permutations: int
    seed: int
    cluster: str
    jobs: int


class PredictSettings(TypedDict, total=False):
    """Settings of `PredictConfig`."""

    recipe: StrPath | None
    out: StrPath
    cache: StrPath | None
    vectors: StrPath | None
    model: str | None
    aggregator: str | None
    final: bool
    weights: StrPath | None
    slides_root: StrPath | None
    precision: Literal["auto", "bf16", "fp16", "fp32"]
    batch_size: int
    device: str
    workers: int
    pages: bool


class PrototypesSettings(TypedDict, total=False):
    """Settings of `PrototypesConfig`."""

    recipe: StrPath | None
    out: StrPath | None
    manifest: StrPath | None
    slides_root: StrPath | None
    where: StrPath | Sequence[StrPath]
    limit: int
    nearest: int


class HeatmapSettings(TypedDict, total=False):
    """Settings of `HeatmapConfig`."""

    recipe: StrPath | None
    out: StrPath
    model: str | None
    aggregator: str | None
    best: bool
    slide: StrPath | Sequence[StrPath]
    limit: int
    manifest: StrPath | None
    slides_root: StrPath | None
    format: Literal["both", "png", "geojson"]
    crop: bool
    scale: Literal["rank", "linear"]
    side_px: int
    cluster: str
    jobs: int


class RepresentSettings(TypedDict, total=False):
    """Settings of `RepresentConfig`."""

    recipe: StrPath | None
    cache: StrPath
    out: StrPath
    as_: str
    clusters: int
    append_mean_token: bool
    per: Literal["slide", "patient"]
    manifest: StrPath | None
    where: StrPath | Sequence[StrPath]
    fit_where: StrPath | Sequence[StrPath]
    precision: Literal["auto", "bf16", "fp16", "fp32"]
    device: str
    workers: int
    seed: int


class SearchSettings(TypedDict, total=False):
    """Settings of `SearchConfig`."""

    recipe: StrPath | None
    weights: StrPath | None
    top: int
    candidates: int
    manifest: StrPath | None
    slides_root: StrPath | None
    other_patients: bool
    other_sites: bool
    site_column: str
    out: StrPath | None
    nearest: int
    device: str
    workers: int


class ExportSettings(TypedDict, total=False):
    """Settings of `ExportConfig`."""

    recipe: StrPath | None
    out: StrPath
    to: Literal["hipt", "safetensors", "trident", "anndata", "parquet", "geojson", "hub-folder"]
    model: str
    per: Literal["auto", "slide", "region"]
    manifest: StrPath | None
    where: StrPath | Sequence[StrPath]
    crop: bool
    precision: Literal["auto", "bf16", "fp16", "fp32"]
    device: str
    workers: int


class InspectSettings(TypedDict, total=False):
    """Settings of `InspectConfig`."""

    recipe: StrPath | None
    by: str
    manifest: StrPath | None
    target: str


class EncodersSettings(TypedDict, total=False):
    """Settings of `EncodersConfig`."""

    recipe: StrPath | None
    check: StrPath | None


class FromClamSettings(TypedDict, total=False):
    """Settings of `FromClamConfig`."""

    recipe: StrPath | None
    out: StrPath
    slides_root: StrPath | None
    splits: StrPath | Sequence[StrPath]


class DemoSettings(TypedDict, total=False):
    """Settings of `DemoConfig`."""

    recipe: StrPath | None
    tiny: bool
    slides: int
    epochs: int
    seed: int
    jobs: int


class StudySettings(TypedDict, total=False):
    """Settings of `StudyConfig`."""

    recipe: StrPath | None
    out: StrPath
    slides_root: StrPath | None
    plan: Literal["commands", "slurm"] | None
    cache: StrPath | None
    encoder: str
    weights: StrPath | None
    embed_recipe: StrPath | None
    task: str
    target: str
    classes: StrPath | Sequence[StrPath]
    time_column: str | None
    event_column: str | None
    allow_missing: bool
    holdout: float
    holdout_column: str | None
    holdout_value: StrPath | Sequence[StrPath]
    by_site: bool
    site_column: str
    pretrain_recipe: str
    epochs: int
    model: StrPath | Sequence[StrPath]
    ceiling: StrPath | Sequence[StrPath]
    aggregator: StrPath | Sequence[StrPath]
    eval_recipe: StrPath | None
    folds: int
    heatmaps: int
    device: str
    jobs: int
    seed: int


class ViewSettings(TypedDict, total=False):
    """Settings of `ViewConfig`."""

    recipe: StrPath | None
    cache: StrPath | None
    manifest: StrPath | None
    slides_root: StrPath | None
    slide: str | None
    port: int
    browser: bool
    readers: int
