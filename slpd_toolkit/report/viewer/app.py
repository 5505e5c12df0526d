"""The routes of the viewer. Requests name slides by ID and never a path, except for the reports below the folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files as package_files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slpd_toolkit.core.errors import SlpdError
from slpd_toolkit.core.figures.pictures import COLOURS
from slpd_toolkit.report.viewer.regions import tissue_picture

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt
    from starlette.requests import Request

    from slpd_toolkit.report.viewer.cohort import ViewedCohort
    from slpd_toolkit.report.viewer.nearest import RegionIndex
    from slpd_toolkit.report.viewer.pixels import SlidePixels
    from slpd_toolkit.report.viewer.regions import Frame

_PAGE = ("index.html", "viewer.css", "favicon.svg")
_LIBRARY = "third_party/openseadragon/openseadragon.min.js"
_TYPES = {
    ".css": "text/css",
    ".csv": "text/csv",
    ".html": "text/html",
    ".jpg": "image/jpeg",
    ".js": "text/javascript",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
_REPORT_TYPES = frozenset({".html", ".svg", ".png", ".jpg", ".csv", ".json"})
_REPORT_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; sandbox allow-top-navigation-by-user-activation allow-popups"
)
_KEPT = {"Cache-Control": "private, max-age=3600"}
_NEAREST = 8


class ClassScorer(Protocol):
    """Scores of single regions by trained heads."""

    @property
    def names(self) -> Sequence[str]:
        """Names of the models whose heads are available."""

    def scores(self, name: str, slide_id: str) -> ClassScores:
        """Score every region of a slide.

        Raises:
            SlpdError: The heads cannot be read, or do not fit the tokens.
        """


class ClassScores(Protocol):
    """Output of heads for each region of a slide, as if it were the only region."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the outputs."""

    @property
    def values(self) -> npt.NDArray[Any]:
        """(R, C)."""

    @property
    def about(self) -> str:
        """Which heads were used."""


class DescribedVectors(Protocol):
    """Vectors by which regions are compared."""

    @property
    def about(self) -> str:
        """Description of the vectors."""


@dataclass(frozen=True, eq=False)
class Viewer:
    """Everything that the routes use."""

    cohort: ViewedCohort
    pixels: SlidePixels
    index: RegionIndex
    vectors: DescribedVectors
    """Vectors of the index."""
    scorer: ClassScorer
    reading: anyio.CapacityLimiter
    """Limits the number of concurrent reads of slides."""
    computing: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(1))

    def routes(self) -> list[Route]:
        """Return all routes."""
        of_slide = "/api/slides/{slide}"
        return [
            Route("/", _static("index.html")),
            *(Route(f"/page/{name}", _static(name)) for name in page_files()),
            Route("/api/cohort", self.describe_cohort),
            Route(of_slide, self.describe_slide),
            Route(f"{of_slide}/pixels", self.describe_pixels),
            Route(f"{of_slide}/tissue.png", self.tissue),
            Route(f"{of_slide}/tiles/{{level:int}}/{{column:int}}_{{row:int}}.jpg", self.tile),
            Route(f"{of_slide}/regions/{{region:int}}.jpg", self.region_picture),
            Route(f"{of_slide}/regions/{{region:int}}/nearest", self.nearest),
            Route(f"{of_slide}/scores/{{number:int}}", self.class_scores),
            Route("/reports/{path:path}", self.report),
        ]

    async def describe_cohort(self, _: Request) -> Response:
        """List the slides."""
        found = await anyio.to_thread.run_sync(self.cohort.describe)
        parts = self.cohort.parts
        reports = [path.relative_to(parts.root).as_posix() for path in parts.reports]
        return _json(found | {"reports": reports, "scorers": list(self.scorer.names)})

    async def describe_slide(self, request: Request) -> Response:
        """Return the regions of a slide with their values."""
        return await anyio.to_thread.run_sync(self._describe_slide, self._slide(request))

    def _describe_slide(self, slide: str) -> Response:
        cohort = self.cohort
        file = cohort.files.get(slide)
        frame = cohort.layers.frame(slide, file)
        found: dict[str, Any] = {"id": slide, "fault": cohort.faults.get(slide, "")}
        if frame is None:
            return _json(found | {"regions": None})
        runs = {name: run.describe(slide, frame) for name, run in cohort.layers.runs.items()}
        found |= {
            "width": frame.size_l0[0],
            "height": frame.size_l0[1],
            "mpp": frame.mpp_l0,
            "region_l0": frame.region_l0,
            "regions": frame.coords_l0.tolist(),
            "prototypes": {name: each for name, each in runs.items() if each is not None},
            "attention": [
                {"name": f"{name} · {each['model']} · {each['aggregator']}", "values": each["values"]}
                for name, scores in cohort.layers.scores.items()
                for each in scores.describe(slide, frame)
            ],
            "colours": COLOURS,
        }
        if file is not None and len(file):
            try:
                found["tissue"] = [round(float(value), 4) for value in file.tissue.mean(axis=(1, 2), dtype=float)]
            except SlpdError as error:
                found["fault"] = str(error)
        return _json(found)

    async def describe_pixels(self, request: Request) -> Response:
        """Open a slide; report what is wrong with it."""
        slide = self._slide(request)
        if not self.pixels.has(slide):
            return _json({"state": "none", "message": self.cohort.listed.problems.get(slide, "")})
        try:
            pyramid = await self._reads(self.pixels.pyramid, slide)
        except SlpdError as error:
            return _json({"state": "damaged", "message": str(error)})
        return _json({"state": "ok", "width": pyramid.width_l0, "height": pyramid.height_l0, "levels": pyramid.levels})

    async def tissue(self, request: Request) -> Response:
        """Return the tissue layer; its place is in headers."""
        file = self.cohort.files.get(self._slide(request))
        try:
            found = None if file is None else await anyio.to_thread.run_sync(tissue_picture, file)
        except SlpdError as error:
            return _error(404, str(error))
        if found is None:
            return _error(404, "This slide has no tissue layer.")
        picture, box = found
        return Response(picture, 200, {**_KEPT, "X-Box": ",".join(map(str, box))}, "image/png")

    async def tile(self, request: Request) -> Response:
        """Return a tile of the pyramid."""
        slide, place = self._slide(request), [request.path_params[name] for name in ("level", "column", "row")]
        return await self._picture(partial(self.pixels.tile, slide, *place))

    async def region_picture(self, request: Request) -> Response:
        """Return a region as a small image."""
        slide, region = self._slide(request), int(request.path_params["region"])
        try:
            side_px = min(max(int(request.query_params.get("px", "192")), 16), 1024)
        except ValueError:
            return _error(400, "px is not a number.")
        frame = await anyio.to_thread.run_sync(self._frame, slide)
        if frame is None or not 0 <= region < len(frame.coords_l0):
            return _error(404, f"{slide} has no region {region}.")
        x, y = frame.coords_l0[region].tolist()
        return await self._picture(partial(self.pixels.region, slide, x, y, frame.region_l0, side_px))

    async def nearest(self, request: Request) -> Response:
        """Return the most similar regions of other slides."""
        slide, region = self._slide(request), int(request.path_params["region"])
        if not self.cohort.files:
            return _error(404, "Without a token cache, regions cannot be compared: use --cache.")
        try:
            found = await anyio.to_thread.run_sync(self.index.nearest, slide, region, _NEAREST)
        except LookupError as error:
            return _error(404, f"There are no vectors of {error.args[0]}.")
        regions = [
            {"slide": each.slide_id, "region": each.region, "cosine": round(each.cosine, 4)} for each in found.regions
        ]
        return _json(
            {"regions": regions, "searched": found.searched, "slides": found.slides, "about": self.vectors.about}
        )

    async def class_scores(self, request: Request) -> Response:
        """Return the score of each region by class."""
        slide, number = self._slide(request), int(request.path_params["number"])
        if not 0 <= number < len(self.scorer.names):
            return _error(404, f"There are no heads with the number {number}.")
        try:
            found = await anyio.to_thread.run_sync(
                self.scorer.scores, self.scorer.names[number], slide, limiter=self.computing
            )
        except SlpdError as error:
            return _error(409, str(error))
        values = [[round(float(value), 5) for value in row] for row in found.values]
        return _json({"classes": list(found.classes), "values": values, "about": found.about})

    async def report(self, request: Request) -> Response:
        """Return a report below the folder, without scripts and without access to the rest of the page."""
        path = await anyio.to_thread.run_sync(below, self.cohort.parts.root, request.path_params["path"])
        if path is None:
            return _error(404, "There is no such report.")
        content = await anyio.to_thread.run_sync(path.read_bytes)
        return Response(content, 200, {"Content-Security-Policy": _REPORT_POLICY}, _TYPES[path.suffix])

    def _slide(self, request: Request) -> str:
        slide = str(request.path_params["slide"])
        if slide not in self._known:
            raise UnknownSlideError(slide)
        return slide

    @property
    def _known(self) -> Mapping[str, int]:
        return self.cohort.position

    def _frame(self, slide: str) -> Frame | None:
        return self.cohort.layers.frame(slide, self.cohort.files.get(slide))

    async def _reads(self, function: Callable[..., Any], *arguments: object) -> Any:
        return await anyio.to_thread.run_sync(partial(function, *arguments), limiter=self.reading)

    async def _picture(self, make: Callable[[], bytes]) -> Response:
        try:
            return Response(await self._reads(make), 200, _KEPT, "image/jpeg")
        except LookupError as error:
            return _error(404, f"There is no {error}.")
        except SlpdError as error:
            return _error(409, str(error))


class UnknownSlideError(Exception):
    """A request names a slide that the folder does not contain."""


def make_app(viewer: Viewer) -> Starlette:
    """Create the application, without the guard of `access`."""

    async def unknown(_: Request, __: Exception) -> Response:
        return _error(404, "There is no such slide.")

    return Starlette(routes=viewer.routes(), exception_handlers={UnknownSlideError: unknown})


def below(root: Path, name: str) -> Path | None:
    """Return the file of a report, if it is one and lies below a folder; links that lead out of it do not count."""
    if "\0" in name:
        return None
    path = (root / name).resolve()
    if not path.is_relative_to(root) or path.suffix not in _REPORT_TYPES or not path.is_file():
        return None
    return path if not any(part.startswith(".") for part in path.relative_to(root).parts) else None


def page_files() -> list[str]:
    """Return the names of the page's files."""
    folder = package_files("slpd_toolkit.report.viewer") / "page"
    scripts = sorted(each.name for each in folder.iterdir() if each.name.endswith(".js"))
    return [*_PAGE, *scripts, Path(_LIBRARY).name]


def _static(name: str) -> Callable[[Request], Response]:
    base = package_files("slpd_toolkit.report.viewer")
    path = base / _LIBRARY if name == Path(_LIBRARY).name else base / "page" / name

    def answer(_: Request) -> Response:
        return Response(path.read_bytes(), 200, media_type=_TYPES[Path(name).suffix])

    return answer


def _json(value: object) -> Response:
    return JSONResponse(value)


def _error(status: int, message: str) -> Response:
    return Response(json.dumps({"error": message}), status, media_type="application/json")
