"""The routes of the viewer. Requests name slides by ID and never a path, except for the reports below the folder."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slpd_toolkit.report.pages import VIEWER
from slpd_toolkit.report.viewer.slide_routes import RegionRoutes, SlideRoutes, UnknownSlideError, refuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from slpd_toolkit.report.viewer.slide_routes import Viewer

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
    "frame-ancestors 'none'; sandbox allow-same-origin allow-top-navigation-by-user-activation allow-popups"
)
"""No scripts. The origin is kept: without it, images of the page would be requested without the cookie."""


@dataclass(frozen=True)
class CohortRoutes:
    """The list of slides, and the reports."""

    viewer: Viewer

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route("/api/cohort", self.describe_cohort), Route("/reports/{path:path}", self.report)]

    async def describe_cohort(self, _: Request) -> Response:
        """List the slides."""
        found = await anyio.to_thread.run_sync(self.viewer.cohort.describe)
        parts = self.viewer.cohort.parts
        reports = [path.relative_to(parts.root).as_posix() for path in parts.reports]
        return JSONResponse(found | {"reports": reports, "scorers": list(self.viewer.scorer.names)})

    async def report(self, request: Request) -> Response:
        """Return a report below the folder, without scripts and without access to the rest of the page."""
        path = await anyio.to_thread.run_sync(below, self.viewer.cohort.parts.root, request.path_params["path"])
        if path is None:
            return refuse(404, "There is no such report.")
        content = await anyio.to_thread.run_sync(path.read_bytes)
        if path.suffix == ".html":
            content = content.replace(VIEWER.encode(), b"/")  # this viewer, which may have another port
        return Response(content, 200, {"Content-Security-Policy": _REPORT_POLICY}, _TYPES[path.suffix])


def make_app(viewer: Viewer) -> Starlette:
    """Create the application, without the guard of `access`."""

    async def unknown(_: Request, __: Exception) -> Response:
        return refuse(404, "There is no such slide.")

    routes = [
        Route("/", _static("index.html")),
        *(Route(f"/page/{name}", _static(name)) for name in page_files()),
        *(route for kind in (CohortRoutes, SlideRoutes, RegionRoutes) for route in kind(viewer).routes()),
    ]
    return Starlette(routes=routes, exception_handlers={UnknownSlideError: unknown})


def below(root: Path, name: str) -> Path | None:
    """Return the path of a report if it exists inside a folder; links that lead out of the folder are not followed."""
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
