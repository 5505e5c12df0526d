"""Every command as a function.

Keyword arguments are the command's flags with `_` instead of `-`, with the same defaults and checks. `recipe="..."`
names a TOML file of settings, like `--recipe`; keyword arguments override it. All errors are `SlpdError`s. A slide that
fails does not raise an error: it is listed in `failures` of the result.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import pandas as pd

from slpd_toolkit.api import calls
from slpd_toolkit.api.calls import resolve, with_settings_of
from slpd_toolkit.api.results import (
    Atlas,
    DemoResult,
    EvaluationResult,
    Heatmaps,
    Inspection,
    PredictionResult,
    Run,
    StudyResult,
)
from slpd_toolkit.config.demo import DemoConfig
from slpd_toolkit.config.embed import EmbedConfig
from slpd_toolkit.config.encoders import EncodersConfig
from slpd_toolkit.config.export import ExportConfig
from slpd_toolkit.config.from_clam import FromClamConfig
from slpd_toolkit.config.heatmap import HeatmapConfig
from slpd_toolkit.config.import_features import ImportConfig
from slpd_toolkit.config.inspect import InspectConfig
from slpd_toolkit.config.mil_eval import MilEvalConfig
from slpd_toolkit.config.predict import PredictConfig
from slpd_toolkit.config.pretrain import PretrainConfig
from slpd_toolkit.config.pretrain_slides import PretrainSlidesConfig
from slpd_toolkit.config.prototypes import PrototypesConfig
from slpd_toolkit.config.represent import RepresentConfig
from slpd_toolkit.config.search import SearchConfig
from slpd_toolkit.config.study import StudyConfig
from slpd_toolkit.config.view import ViewConfig
from slpd_toolkit.core.failures import Failure

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Unpack

    from slpd_toolkit.api import settings as of
    from slpd_toolkit.api.settings import StrPath
    from slpd_toolkit.commands.view import OpenedView
    from slpd_toolkit.representations.slide_vectors import SlideVectors
    from slpd_toolkit.store.token_file import TokenStore


@with_settings_of(EmbedConfig, "manifest")
def embed(manifest: StrPath | None = None, **settings: Unpack[of.EmbedSettings]) -> TokenStore:
    """Embed slides with a frozen patch encoder and write a token cache (`slpd embed`).

    Slides that are already in the cache are skipped, so repeating an interrupted call resumes it.

    Returns:
        The cache. Slides that failed are listed in its `failures` and do not affect the others.

    Raises:
        UsageError: The manifest, encoder or settings are invalid, or the cache has another encoder or geometry.
        WeightsError: The weights do not fit the encoder.
        CacheError: No slide could be embedded.

    >>> cache = slpd.embed(
    ...     "slides.csv", out="embedded", encoder="handcrafted", mpp=1.0, region_px=128, patch_px=32, device="cpu"
    ... )
    >>> cache.slides[["slide_id", "target_mpp", "encoder"]].values.tolist()
    [['first', 1.0, 'handcrafted'], ['second', 1.0, 'handcrafted']]
    >>> len(cache.failures)
    0
    """
    from slpd_toolkit.store.token_file import TokenStore

    config = resolve(EmbedConfig, {"manifest": manifest, **settings})
    calls.run("embed", config)
    return TokenStore.open(config.out)


@with_settings_of(ImportConfig, "source")
def import_features(source: StrPath | None = None, **settings: Unpack[of.ImportSettings]) -> TokenStore:
    """Convert patch features extracted by another tool to a token cache (`slpd import`).

    Returns:
        The cache. Slides that failed are listed in its `failures`.

    Raises:
        UsageError: The files are not in a known format, or lack information that must be passed as a setting.
        CacheError: No slide could be imported.

    >>> slpd.export("cache", out="features", to="trident").name
    'features'
    >>> imported = slpd.import_features("features/features_planted", out="imported", region_px=1536)
    >>> imported.slides["regions"].tolist()
    [9, 3, 6, 7, 5, 4, 6, 5, 6, 5, 7, 5]
    """
    from slpd_toolkit.store.token_file import TokenStore

    config = resolve(ImportConfig, {"source": source, **settings})
    calls.run("import_features", config)
    return TokenStore.open(config.out)


@with_settings_of(PretrainConfig, "cache")
def pretrain(cache: StrPath | None = None, **settings: Unpack[of.PretrainSettings]) -> Run:
    """Train a region ViT on a token cache (`slpd pretrain`).

    The same call resumes an interrupted run, and returns immediately if the run is complete. On Ctrl-C the state is
    saved and `KeyboardInterrupt` is raised. For several GPUs, use the command with torchrun.

    Returns:
        The run: metrics, prototypes and the trained region ViT.

    Raises:
        UsageError: The cache, the settings and an earlier run in the folder do not match.
        CacheError: The cache is empty, mixed or damaged.
        TrainingError: The loss is no longer finite.
        DeviceMemoryError: The device does not have enough memory.

    >>> run = slpd.pretrain(
    ...     "cache", out="runs/slpd", epochs=2, batch_size=8, warmup_epochs=1, clusters=2, min_regions=5,
    ...     prototype_epoch=1, global_side=5, local_side=3, embed_dim=24, depth=1, heads=3, hidden_dim=32,
    ...     bottleneck_dim=16, out_dim=64, log_every=2, device="cpu",
    ... )
    >>> run.metrics["step"].tolist()
    [2, 4, 6, 8, 10, 12, 14, 16]
    >>> run.region_vit().config.embed_dim
    24
    """
    config = resolve(PretrainConfig, {"cache": cache, **settings})
    calls.run("pretrain", config)
    return Run.open(config.out)


@with_settings_of(PretrainSlidesConfig, "model")
def pretrain_slides(model: StrPath | None = None, **settings: Unpack[of.PretrainSlidesSettings]) -> Path:
    """Train a slide ViT on the region embeddings of a cohort (`slpd pretrain-slides`).

    The same call resumes an interrupted run, and returns immediately if the run is complete.

    Returns:
        The run folder, a `model` of `mil_eval` and `represent`.

    Raises:
        UsageError: The model, the cache, the settings and an earlier run in the folder do not match.
        CacheError: The cache is empty, mixed or damaged.
        TrainingError: The loss is no longer finite.
        DeviceMemoryError: The device does not have enough memory.

    >>> folder = slpd.pretrain_slides(
    ...     "runs/slpd", cache="cache", out="runs/slides", epochs=1, warmup_epochs=0, batch_size=4, embed_dim=8,
    ...     depth=1, heads=2, hidden_dim=16, bottleneck_dim=8, out_dim=32, device="cpu",
    ... )
    >>> slpd.represent(str(folder), cache="cache", as_="mean-sd", out="in-context.parquet", device="cpu")
    SlideVectors(12 slides, mean-sd of 16 features)
    """
    config = resolve(PretrainSlidesConfig, {"model": model, **settings})
    calls.run("pretrain_slides", config)
    return config.out


@with_settings_of(MilEvalConfig, "cache")
def mil_eval(cache: StrPath | None = None, **settings: Unpack[of.MilEvalSettings]) -> EvaluationResult:
    """Evaluate and compare representations with MIL heads (`slpd mil-eval`).

    Models may be strings, as on the command line, or `Run` objects.

    Returns:
        The result: tables of metrics, comparisons and predictions, and the path of the HTML report.

    Raises:
        UsageError: The manifest, cache, models, splits or settings are invalid or do not match.
        CacheError: The cache is empty, mixed or damaged.
        WeightsError: A model's file is not a region ViT.

    >>> result = slpd.mil_eval(
    ...     "cache", manifest="cohort.csv", model=["mean-tokens", "runs/slpd"], aggregator="knn", out="eval",
    ...     folds=3, repeats=1, permutations=50, jobs=1, device="cpu",
    ... )
    >>> result.table["model"].unique().tolist()
    ['mean-tokens', 'slpd']
    >>> result.comparisons[["first", "second"]].drop_duplicates().values.tolist()
    [['mean-tokens', 'slpd']]
    """
    config = resolve(MilEvalConfig, {"cache": cache, **settings})
    calls.run("mil_eval", config)
    return EvaluationResult.open(config.out)


@with_settings_of(PredictConfig, "bundle", "manifest")
def predict(
    bundle: StrPath | None = None, manifest: StrPath | None = None, **settings: Unpack[of.PredictSettings]
) -> PredictionResult:
    """Predict new slides with the heads that `mil_eval` trained (`slpd predict`).

    Slides are embedded as the training slides were, unless `cache` or `vectors` has them. The same call resumes an
    interrupted one.

    Returns:
        The predictions. Slides that failed are in its `failures`.

    Raises:
        UsageError: The bundle is incomplete, damaged, of another version, or of another encoder or geometry than the
            slides.
        SlpdError: No slide could be predicted.

    >>> predicted = slpd.predict("eval", model="slpd", aggregator="knn", cache="cache", out="predicted", device="cpu")
    >>> predicted.predictions.columns[:3].tolist()
    ['slide_id', 'decision', 'probability_luad']
    >>> len(predicted.predictions), len(predicted.failures)
    (12, 0)
    """
    config = resolve(PredictConfig, {"bundle": bundle, "manifest": manifest, **settings})
    calls.run("predict", config)
    return PredictionResult(config.out)


@with_settings_of(PrototypesConfig, "run")
def prototypes(run: StrPath | None = None, **settings: Unpack[of.PrototypesSettings]) -> Atlas:
    """Draw the atlas of a run's slide prototypes (`slpd prototypes`).

    Returns:
        The atlas: the path of its page, and the slides that are shown without pixels.

    Raises:
        UsageError: The run has no prototypes, or the manifest cannot be read.

    >>> atlas = slpd.prototypes("runs/slpd", out="atlas")
    >>> atlas.page.exists(), len(atlas.failures)
    (True, 0)
    """
    config = resolve(PrototypesConfig, {"run": run, **settings})
    calls.run("prototypes", config)
    return Atlas(config.out or config.run / "atlas")


@with_settings_of(HeatmapConfig, "scores")
def heatmap(scores: StrPath | None = None, **settings: Unpack[of.HeatmapSettings]) -> Heatmaps:
    """Draw stored scores as images and QuPath objects (`slpd heatmap`).

    Returns:
        Paths of the images and objects, and the slides that failed.

    Raises:
        UsageError: The scores or the manifest cannot be read.

    >>> heatmaps = slpd.heatmap("scores.csv", out="heatmaps", jobs=1)
    >>> [path.name for path in heatmaps.pictures + heatmaps.qupath_objects]
    ['slide000.png', 'slide000.geojson']
    """
    config = resolve(HeatmapConfig, {"scores": scores, **settings})
    calls.run("heatmap", config)
    return Heatmaps(config.out)


@with_settings_of(RepresentConfig, "model")
def represent(model: StrPath | None = None, **settings: Unpack[of.RepresentSettings]) -> SlideVectors:
    """Describe each slide or patient by one vector or by a set of weighted prototypes (`slpd represent`).

    Returns:
        The vectors, as they were written to `out`.

    Raises:
        UsageError: The model does not fit the cache, or the manifest does not fit it.
        WeightsError: The model's file is not a region ViT.
        CacheError: The cache is empty, mixed or damaged.

    >>> vectors = slpd.represent("runs/slpd", cache="cache", as_="histogram", clusters=4, out="histograms.parquet")
    >>> vectors["slide000"].shape, round(float(vectors["slide000"].sum()), 4)
    ((1, 4), 1.0)
    >>> len(vectors.fitted_on)
    12
    """
    from slpd_toolkit.commands.represent import make

    return make(resolve(RepresentConfig, {"model": model, **settings}))


@with_settings_of(SearchConfig, "source", "query")
def search(
    source: StrPath | None = None, query: str | None = None, **settings: Unpack[of.SearchSettings]
) -> pd.DataFrame:
    """Find slides that are similar to one slide by the matching of their prototypes (`slpd search`).

    For many queries, open a `SlideIndex` once.

    Returns:
        One row per slide found: slide_id, patient_id, similarity, and the matched prototypes (query-slide).
        `attrs["page"]` is the path of the HTML page.

    Raises:
        UsageError: The source has no prototypes or vectors, or the query is not in it.
        CacheError: prototypes.h5 or the token file cannot be read.

    >>> found = slpd.search("runs/slpd", "slide000", top=3)
    >>> len(found), "slide000" in found["slide_id"].tolist()
    (3, False)
    >>> found.attrs["page"].name
    'slide000.html'
    """
    from slpd_toolkit.commands.search import find
    from slpd_toolkit.core import console
    from slpd_toolkit.representations.slide_index import table_of

    with console.without_results():
        found = find(resolve(SearchConfig, {"source": source, "query": query, **settings}))
    table = table_of(found.matches)
    table.insert(1, "patient_id", [found.groups.patients.get(slide, slide) for slide in table["slide_id"]])
    table.attrs["page"] = found.page
    return table


@with_settings_of(ExportConfig, "source")
def export(source: StrPath | None = None, **settings: Unpack[of.ExportSettings]) -> Path:
    """Write weights, tokens or embeddings in the formats of other tools (`slpd export`).

    For embeddings in memory, as arrays or AnnData, use `region_embeddings`.

    Returns:
        The file or folder that was written.

    Raises:
        UsageError: The source cannot be written in this format, or an optional dependency is missing.
        WeightsError: The source or the model is not a region ViT.

    >>> slpd.export("runs/slpd", out="region_vit.safetensors", to="safetensors").exists()
    True
    """
    config = resolve(ExportConfig, {"source": source, **settings})
    calls.run("export", config)
    return config.out


@with_settings_of(InspectConfig, "path")
def inspect(path: StrPath | None = None, **settings: Unpack[of.InspectSettings]) -> Inspection:
    """Describe the contents of a token file or a token cache (`slpd inspect`).

    Returns:
        A description, a table of slides, and the files that cannot be read.

    Raises:
        UsageError: There is no token file at `path`.
        CacheError: A single file cannot be read, or the files of a cache do not belong together.

    >>> slpd.inspect("cache").facts["slides"]
    '12'
    """
    from slpd_toolkit.commands.inspect import inspect_path, site_effects_of
    from slpd_toolkit.report.site_section import terminal_rows
    from slpd_toolkit.store.token_file import TokenStore

    config = resolve(InspectConfig, {"path": path, **settings})
    found = inspect_path(config.path)
    by = [] if config.manifest is None else terminal_rows([site_effects_of(config)])
    failures = [Failure.of("inspect", file.stem, file, error) for file, error in found.broken]
    slides = TokenStore(found.files).slides if found.files else pd.DataFrame()
    failed = pd.DataFrame(failures, columns=[item.name for item in fields(Failure)])
    return Inspection(found.facts, slides, failed, pd.DataFrame(by))


@with_settings_of(EncodersConfig, "name")
def list_encoders(name: str = "", **settings: Unpack[of.EncodersSettings]) -> pd.DataFrame:
    """List the patch encoders, or check a weights file of one (`slpd encoders`).

    Returns:
        One row per encoder, or the row of `name`: width, patch size in px, resolution in um/px, pooling, licence, gate,
        publisher.

    Raises:
        UsageError: There is no encoder with that name.
        WeightsError: The weights file in `check` belongs to another encoder, is damaged or is unsafe.

    >>> slpd.list_encoders("uni2-h").loc["uni2-h", "width"]
    np.int64(1536)
    """
    from slpd_toolkit.encoders.preset import presets, require_preset

    config = resolve(EncodersConfig, {"name": name, **settings})
    if config.check is not None:
        calls.run("encoders", config)
    chosen = [require_preset(config.name, "name")] if config.name else list(presets().values())
    rows = {
        preset.name: {
            "about": preset.about,
            "width": preset.width,
            "patch_px": preset.scales[0].patch_px,
            "mpp": preset.scales[0].mpp,
            "pooling": preset.pooling,
            "licence": preset.terms.licence,
            "gated": preset.terms.gated,
            "publisher": preset.terms.publisher,
        }
        for preset in chosen
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")


@with_settings_of(FromClamConfig, "labels")
def manifest_from_clam(labels: StrPath | None = None, **settings: Unpack[of.FromClamSettings]) -> pd.DataFrame:
    """Convert a label table of CLAM or HIPT to a manifest (`slpd manifest from-clam`).

    Returns:
        The manifest, with all columns as text; it is also written to `out`.

    Raises:
        UsageError: The table or a split cannot be read, or `out` is not a .csv file in an existing folder.

    >>> slpd.manifest_from_clam("clam.csv", out="manifest.csv")["label"].tolist()
    ['luad', 'lusc']
    """
    config = resolve(FromClamConfig, {"labels": labels, **settings})
    calls.run("from_clam", config)
    return pd.read_csv(config.out, dtype=str, keep_default_na=False)


@with_settings_of(DemoConfig, "out")
def run_demo(out: StrPath | None = None, **settings: Unpack[of.DemoSettings]) -> DemoResult:
    """Run the full pipeline on synthetic slides (`slpd demo`).

    Returns:
        The token cache, both pretraining runs and their evaluation.

    Raises:
        UsageError: The folder contains a demo with different settings, or other files.
        SlpdError: A step failed.

    >>> made = slpd.run_demo("demo", tiny=True, jobs=1)
    >>> len(made.cache), made.evaluation.headline
    (12, 'auc')
    """
    from slpd_toolkit.config import study_stages as stages
    from slpd_toolkit.store.token_file import TokenStore

    config = resolve(DemoConfig, {"out": out, **settings})
    calls.require_success(calls.run("demo", config), "The demo")
    return DemoResult(
        config.out,
        cache=TokenStore.open(config.out / stages.CACHE),
        dino=Run.open(config.out / stages.DINO),
        slpd=Run.open(config.out / stages.SLPD),
        evaluation=EvaluationResult.open(config.out / stages.EVALUATION),
    )


@with_settings_of(StudyConfig, "manifest")
def study(manifest: StrPath | None = None, **settings: Unpack[of.StudySettings]) -> StudyResult:
    """Compare mean tokens, DINO and SLPD on a cohort, from its slides to an answer (`slpd study`).

    The same call resumes an interrupted study; complete stages are skipped.

    Returns:
        The folder of the study. Slides and stages that failed are listed in its `failures`.

    Raises:
        UsageError: The manifest, the target, the hold-out or another setting is invalid, or the folder contains another
            study.
        SlpdError: There is no answer, because the evaluation failed.

    >>> found = slpd.study(
    ...     "cohort.csv", out="study", cache="cache", epochs=1, aggregator=["knn"], device="cpu", jobs=1,
    ...     pretrain_recipe="tiny.toml",
    ... )
    >>> len(found.answer), found.evaluation.headline
    (3, 'auc')
    """
    from slpd_toolkit.config.study_stages import EVALUATION
    from slpd_toolkit.core.errors import SlpdError
    from slpd_toolkit.core.failures import read_failures
    from slpd_toolkit.report.study_answer import read_answer

    config = resolve(StudyConfig, {"manifest": manifest, **settings})
    calls.run("study", config)
    found = read_answer(config.out / EVALUATION, config.ceiling)
    if found is None:
        raise SlpdError(f"{config.out} has no evaluation.", hint=f"See {config.out / 'failures.csv'}.")
    return StudyResult(
        config.out,
        answer=tuple(found.sentences),
        evaluation=EvaluationResult.open(config.out / EVALUATION),
        failures=read_failures(config.out),
    )


@with_settings_of(ViewConfig, "folder")
def view(folder: StrPath, **settings: Unpack[of.ViewSettings]) -> OpenedView:
    """Show slides with prototypes, attention and predictions in the browser (`slpd view`), in the background.

    Returns:
        The running server: `url` is the address of the page, with its token; `close()`, or the end of a `with` block,
        stops it.

    Raises:
        UsageError: The folder has nothing to show, the manifest cannot be read, the extra `view` is not installed, or
            no port is free.

    >>> with slpd.view("cache", port=0, browser=False) as viewer:
    ...     viewer.url.startswith("http://127.0.0.1:")
    True
    """
    from slpd_toolkit.commands.view import open_view, show

    config = resolve(ViewConfig, {"folder": folder, **settings})
    opened = open_view(config)
    opened.server.start()
    show(config, opened)
    return opened
