"""Folders for the viewer, and requests to its application without a network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np

from slpd_toolkit.core.files import fingerprint
from slpd_toolkit.report.pages import viewer_link
from slpd_toolkit.report.scores import ScoreTable, write_score_tables
from slpd_toolkit.store.token_file import TokenStore
from slpd_toolkit.training.prototype_file import PrototypeFile
from tests.cohorts import token_meta, write_manifest
from tests.slide_factory import tissue_on_glass, write_slide

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from starlette.types import ASGIApp, Message

GRID, SIDE_L0, WIDTH_L0, HEIGHT_L0 = 4, 256, 1024, 768


@dataclass(frozen=True)
class Answer:
    """What the application answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def get(app: ASGIApp, path: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Answer:
    """Send a request; the path is taken as it is, so that it may contain anything."""
    path, _, query = path.partition("?")
    given = {"host": "127.0.0.1:8765", **(headers or {})}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in given.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8765),
        "state": {},
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    anyio.run(app, scope, receive, send)
    start = sent[0]
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return Answer(start["status"], {name.decode(): value.decode("latin-1") for name, value in start["headers"]}, body)


def tokens_of(
    path: Path, slide: Path | None, regions: int, seed: int = 0, recipe: str = "{}", **attributes: Any
) -> None:
    """Write the token file of a slide, with regions of 256 px in rows of four, and of unequal tissue."""
    from slpd_toolkit.store.writer import TokenWriter

    meta = token_meta(
        slide_id=path.stem,
        region_l0=SIDE_L0,
        slide_width_l0=WIDTH_L0,
        slide_height_l0=HEIGHT_L0,
        slide_fingerprint=fingerprint(slide) if slide else "0-0",
        recipe=recipe,
        **attributes,
    )
    rng = np.random.default_rng(seed)
    index = np.arange(regions)
    coords = np.stack([index % 4, index // 4], axis=1) * SIDE_L0
    tissue = np.linspace(0.25, 1, regions)[:, None, None] * np.ones((1, GRID, GRID))
    rows, columns = (axis.ravel() for axis in np.indices((GRID, GRID)))
    with TokenWriter(path, meta, coords, tissue) as writer:
        for region in range(regions):
            writer.put(region, rows, columns, rng.standard_normal((GRID * GRID, meta.embedding_dim)).astype(np.float32))


def write_study(folder: Path, regions: Mapping[str, int]) -> Path:
    """Write a study: slides outside it, and below it a cache, a run with prototypes and an evaluation.

    Args:
        folder: Where `slides/`, `cohort.csv` and `study/` go.
        regions: Number of regions of each slide.
    """
    slides, study = folder / "slides", folder / "study"
    for place in (slides, study / "cache", study / "run", study / "eval"):
        place.mkdir(parents=True)
    manifest = folder / "cohort.csv"
    recipe = json.dumps({"manifest": str(manifest)})
    for seed, (slide, count) in enumerate(regions.items()):
        picture = tissue_on_glass(HEIGHT_L0, WIDTH_L0, [(100, 80, 640, 600)], mpp=1.0, seed=seed)
        write_slide(slides / f"{slide}.tif", picture, mpp=0.5, compression="jpeg")
        tokens_of(study / "cache" / f"{slide}.h5", slides / f"{slide}.tif", count, seed, recipe)
    names = list(regions)
    rows = [
        {"slide_id": slide, "slide_path": f"slides/{slide}.tif", "patient_id": f"P{n}", "label": "ab"[n % 2]}
        for n, slide in enumerate(names)
    ]
    write_manifest(manifest, rows)
    store = TokenStore.open(study / "cache")
    write_prototypes(study / "run" / "prototypes.h5", store)
    write_attention(study / "eval" / "scores.h5", store)
    predictions = [
        {
            "model": "slpd",
            "aggregator": "abmil",
            "repeat": repeat,
            "fold": 0,
            "slide_id": slide,
            "patient_id": f"P{n}",
            "target": "ab"[n % 2],
            "predicted": "a",
            "probability_a": 0.9 - 0.1 * n + 0.02 * repeat,
            "probability_b": 0.1 + 0.1 * n - 0.02 * repeat,
        }
        for n, slide in enumerate(names)
        for repeat in (0, 1)
    ]
    write_manifest(study / "eval" / "predictions.csv", predictions)
    (study / "eval" / "report.html").write_text(f'<a href="{viewer_link("s1")}">zoom</a>', encoding="utf-8")
    return study


def write_prototypes(path: Path, store: TokenStore) -> PrototypeFile:
    """Write prototypes of every slide: region i of a slide belongs to prototype i % 2."""
    files, count = store.files, len(store.files)
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((count, 2, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    others = np.array([[other for other in range(count) if other != row][:2] for row in range(count)])
    regions = [np.arange(len(file)) for file in files]
    file = PrototypeFile(
        slide_ids=np.array(store.slide_ids, object),
        prototypes=vectors,
        neighbours=others,
        similarity=np.full(others.shape, 0.5, np.float32),
        counterpart=np.ones((count, 2, others.shape[1]), np.int64),
        region_row=np.repeat(np.arange(count), store.lengths),
        region_cluster=np.concatenate(regions) % 2,
        region_cosine=np.full(int(store.lengths.sum()), 0.75, np.float32),
        region_coords=np.concatenate([each.coords for each in files]),
        region_l0=np.full(count, SIDE_L0),
        located=np.ones(count, np.bool_),
        step=7,
    )
    file.write(path)
    return file


def write_attention(path: Path, store: TokenStore) -> None:
    """Write attention that rises with the index of the region, in reversed order of regions."""
    scores = [np.arange(1, len(file) + 1)[::-1] / np.arange(1, len(file) + 1).sum() for file in store.files]
    table = ScoreTable(
        "slpd",
        "abmil",
        store.slide_ids,
        np.concatenate([[0], np.cumsum(store.lengths)]).astype(np.int64),
        np.concatenate([file.coords[::-1] for file in store.files]),
        np.full(len(store), SIDE_L0),
        np.full((len(store), 2), (WIDTH_L0, HEIGHT_L0)),
        np.concatenate(scores),
    )
    write_score_tables(path, [table], "label")
