"""Routes about one slide and its regions."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slpd_toolkit.core.errors import SlpdError
from slpd_toolkit.core.figures.pictures import COLOURS
from slpd_toolkit.report.viewer.regions import tissue_picture

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt
    from starlette.requests import Request

    from slpd_toolkit.report.viewer.cohort import ViewedCohort
    from slpd_toolkit.report.viewer.nearest import RegionIndex
    from slpd_toolkit.report.viewer.pixels import SlidePixels
    from slpd_toolkit.report.viewer.regions import Frame

_KEPT = {"Cache-Control": "private, max-age=3600"}
_NEAREST = 8
_OF_SLIDE = "/api/slides/{slide}"


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

    def slide(self, request: Request) -> str:
        """Return the slide that a request names.

        Raises:
            UnknownSlideError: There is none of this name.
        """
        slide = str(request.path_params["slide"])
        if slide not in self.cohort.position:
            raise UnknownSlideError(slide)
        return slide

    async def read(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Call a function that reads a slide, in a thread."""
        return await anyio.to_thread.run_sync(partial(function, *arguments), limiter=self.reading)


class UnknownSlideError(Exception):
    """A request names a slide that the folder does not contain."""


@dataclass(frozen=True)
class SlideRoutes:
    """The slide: its regions with their values, and its pixels."""

    viewer: Viewer

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route(_OF_SLIDE, self.describe_slide),
            Route(f"{_OF_SLIDE}/pixels", self.describe_pixels),
            Route(f"{_OF_SLIDE}/tissue.png", self.tissue),
            Route(f"{_OF_SLIDE}/tiles/{{level:int}}/{{column:int}}_{{row:int}}.jpg", self.tile),
            Route(f"{_OF_SLIDE}/regions/{{region:int}}.jpg", self.region_picture),
        ]

    async def describe_slide(self, request: Request) -> Response:
        """Return the regions of a slide with their values."""
        return await anyio.to_thread.run_sync(self._describe_slide, self.viewer.slide(request))

    def _describe_slide(self, slide: str) -> Response:
        cohort = self.viewer.cohort
        file = cohort.files.get(slide)
        frame = cohort.layers.frame(slide, file)
        found: dict[str, Any] = {"id": slide, "fault": cohort.faults.get(slide, "")}
        if frame is None:
            return JSONResponse(found | {"regions": None})
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
        return JSONResponse(found)

    async def describe_pixels(self, request: Request) -> Response:
        """Open a slide; report what is wrong with it."""
        slide = self.viewer.slide(request)
        if not self.viewer.pixels.has(slide):
            return JSONResponse({"state": "none", "message": self.viewer.cohort.listed.problems.get(slide, "")})
        try:
            pyramid = await self.viewer.read(self.viewer.pixels.pyramid, slide)
        except SlpdError as error:
            return JSONResponse({"state": "damaged", "message": str(error)})
        return JSONResponse(
            {"state": "ok", "width": pyramid.width_l0, "height": pyramid.height_l0, "levels": pyramid.levels}
        )

    async def tissue(self, request: Request) -> Response:
        """Return the tissue layer; its place is in headers."""
        file = self.viewer.cohort.files.get(self.viewer.slide(request))
        try:
            found = None if file is None else await anyio.to_thread.run_sync(tissue_picture, file)
        except SlpdError as error:
            return refuse(404, str(error))
        if found is None:
            return refuse(404, "This slide has no tissue layer.")
        picture, box = found
        return Response(picture, 200, {**_KEPT, "X-Box": ",".join(map(str, box))}, "image/png")

    async def tile(self, request: Request) -> Response:
        """Return a tile of the pyramid."""
        slide, place = self.viewer.slide(request), [request.path_params[name] for name in ("level", "column", "row")]
        return await self._picture(partial(self.viewer.pixels.tile, slide, *place))

    async def region_picture(self, request: Request) -> Response:
        """Return a region as a small image."""
        slide, region = self.viewer.slide(request), int(request.path_params["region"])
        try:
            side_px = min(max(int(request.query_params.get("px", "192")), 16), 1024)
        except ValueError:
            return refuse(400, "px is not a number.")
        frame = await anyio.to_thread.run_sync(self._frame, slide)
        if frame is None or not 0 <= region < len(frame.coords_l0):
            return refuse(404, f"{slide} has no region {region}.")
        x, y = frame.coords_l0[region].tolist()
        return await self._picture(partial(self.viewer.pixels.region, slide, x, y, frame.region_l0, side_px))

    def _frame(self, slide: str) -> Frame | None:
        cohort = self.viewer.cohort
        return cohort.layers.frame(slide, cohort.files.get(slide))

    async def _picture(self, make: Callable[[], bytes]) -> Response:
        try:
            return Response(await self.viewer.read(make), 200, _KEPT, "image/jpeg")
        except LookupError as error:
            return refuse(404, f"There is no {error}.")
        except SlpdError as error:
            return refuse(409, str(error))


@dataclass(frozen=True)
class RegionRoutes:
    """What is computed for regions: the nearest ones, and scores by class."""

    viewer: Viewer

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route(f"{_OF_SLIDE}/regions/{{region:int}}/nearest", self.nearest),
            Route(f"{_OF_SLIDE}/scores/{{number:int}}", self.class_scores),
        ]

    async def nearest(self, request: Request) -> Response:
        """Return the most similar regions of other slides."""
        slide, region = self.viewer.slide(request), int(request.path_params["region"])
        if not self.viewer.cohort.files:
            return refuse(404, "Without a token cache, regions cannot be compared: use --cache.")
        try:
            found = await anyio.to_thread.run_sync(self.viewer.index.nearest, slide, region, _NEAREST)
        except LookupError as error:
            return refuse(404, f"There are no vectors of {error.args[0]}.")
        regions = [
            {"slide": each.slide_id, "region": each.region, "cosine": round(each.cosine, 4)} for each in found.regions
        ]
        return JSONResponse(
            {"regions": regions, "searched": found.searched, "slides": found.slides, "about": self.viewer.vectors.about}
        )

    async def class_scores(self, request: Request) -> Response:
        """Return the score of each region by class."""
        slide, number = self.viewer.slide(request), int(request.path_params["number"])
        if not 0 <= number < len(self.viewer.scorer.names):
            return refuse(404, f"There are no heads with the number {number}.")
        try:
            found = await anyio.to_thread.run_sync(
                self.viewer.scorer.scores, self.viewer.scorer.names[number], slide, limiter=self.viewer.computing
            )
        except SlpdError as error:
            return refuse(409, str(error))
        values = [[round(float(value), 5) for value in row] for row in found.values]
        return JSONResponse({"classes": list(found.classes), "values": values, "about": found.about})


def refuse(status: int, message: str) -> Response:
    """Answer with an error, which the page shows."""
    return JSONResponse({"error": message}, status)
