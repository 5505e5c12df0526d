"""`slpd view`: slides, prototypes, attention and predictions in the browser."""

from __future__ import annotations

import os
import sys
import webbrowser
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from slpd_toolkit.core import console
from slpd_toolkit.core.closing import ClosedOnExit
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.text import count
from slpd_toolkit.report.viewer.folder import find_parts

if TYPE_CHECKING:
    from slpd_toolkit.config.view import ViewConfig
    from slpd_toolkit.report.viewer.cohort import ViewedCohort
    from slpd_toolkit.report.viewer.nearest import RegionIndex
    from slpd_toolkit.report.viewer.pixels import SlidePixels
    from slpd_toolkit.report.viewer.server import ViewServer

_EXTRA = ("starlette", "uvicorn")
_SCREENS = ("DISPLAY", "WAYLAND_DISPLAY")


class OpenedView(ClosedOnExit):
    """A viewer that can be served: its server, and what must be closed after it."""

    def __init__(self, server: ViewServer, cohort: ViewedCohort, pixels: SlidePixels, index: RegionIndex) -> None:
        self.server, self.cohort = server, cohort
        self._pixels, self._index = pixels, index

    @property
    def url(self) -> str:
        """Address of the page, with the token."""
        return self.server.url()

    def close(self) -> None:
        """Stop the server, and end the processes that read slides."""
        self._index.close()
        self._pixels.close()
        self.server.close()


def run(config: ViewConfig) -> int:
    """Serve the page until Ctrl-C.

    Returns:
        0.

    Raises:
        UsageError: The folder has nothing to show, the manifest cannot be read, the extra `view` is not installed, or
            no port is free.
    """
    with open_view(config) as opened:
        show(config, opened)
        console.note("Press Ctrl-C to stop.")
        opened.server.run()
    return 0


def show(config: ViewConfig, opened: OpenedView) -> None:
    """Print the address, and open it in a browser if there is a screen; a browser in the terminal is not opened."""
    url = opened.server.url(config.slide)
    console.note(f"Open {url}")
    if config.browser and (sys.platform == "darwin" or any(os.environ.get(name) for name in _SCREENS)):
        webbrowser.open(url)


def open_view(config: ViewConfig) -> OpenedView:
    """Read what the folder contains, and bind the port; see `run`."""
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        raise UsageError(f"slpd view needs {' and '.join(missing)}.", hint="Run: pip install 'slpd-toolkit[view]'")
    import anyio
    import torch

    from slpd_toolkit.report.viewer.app import make_app
    from slpd_toolkit.report.viewer.cohort import ViewedCohort
    from slpd_toolkit.report.viewer.nearest import RegionIndex
    from slpd_toolkit.report.viewer.pixels import SlidePixels
    from slpd_toolkit.report.viewer.server import ViewServer
    from slpd_toolkit.report.viewer.slide_routes import Viewer
    from slpd_toolkit.representations.region_scores import RegionScorer
    from slpd_toolkit.representations.region_vectors import RegionVectors

    parts = find_parts(config.folder)
    if config.cache is not None:
        caches = find_parts(config.cache).caches
        if not caches:
            raise UsageError(f"--cache: {config.cache} contains no token files.", hint="Pass a cache of `slpd embed`.")
        parts = replace(parts, caches=caches)
    cohort = ViewedCohort.open(parts, config.manifest, config.slides_root)
    if config.slide is not None and config.slide not in cohort.position:
        raise UsageError(
            f"--slide: {config.slide} is not among {count(len(cohort.slides), 'slide')} of {config.folder}."
        )
    metas = {slide: file.meta for slide, file in cohort.files.items()}
    pixels = SlidePixels(cohort.listed.entries, metas, strict=not cohort.listed.given)
    vectors = RegionVectors([*reversed(parts.runs), *parts.evaluations], cohort.files)
    index = RegionIndex(tuple(cohort.files), vectors)
    evaluations = {parts.name_of(folder): folder for folder in parts.evaluations}
    scorer = RegionScorer(evaluations, cohort.files.get, torch.device("cpu"))
    viewer = Viewer(cohort, pixels, index, vectors, scorer, anyio.CapacityLimiter(config.readers))
    _report(config, cohort)
    return OpenedView(ViewServer(make_app(viewer), config.port), cohort, pixels, index)


def _report(config: ViewConfig, cohort: ViewedCohort) -> None:
    """Print what is shown, and where slides are read from."""
    parts, listed = cohort.parts, cohort.listed
    counts = [
        (len(parts.caches), "token cache"),
        (len(parts.runs), "run"),
        (len(parts.evaluations), "evaluation"),
    ]
    found = ", ".join(f"{count} {name}{'s' if count > 1 else ''}" for count, name in counts if count)
    console.note(f"{count(len(cohort.slides), 'slide')}; {found}.")
    readable = sum(slide in listed.entries for slide in cohort.slides)
    if readable:
        whose = "" if listed.given else ", which the results were made from"
        names = ", ".join(map(str, listed.read))
        console.note(f"Slide files of {count(readable, 'slide')} are listed in {names}{whose}.")
    else:
        console.note("No slide files are known, so only grids are shown. With --manifest, slides can be zoomed.")
    for note in cohort.notes:
        console.warn(note)
    if cohort.faults:
        console.warn(
            f"{count(len(cohort.faults), 'slide is', 'slides are')} damaged or could not be embedded: see the marks on "
            "the page."
        )
    if config.folder.resolve() != parts.root:
        console.note(f"Showing {parts.root}.")
