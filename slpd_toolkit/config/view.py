"""Settings of `slpd view`."""

from dataclasses import dataclass
from pathlib import Path

from slpd_toolkit.config.checks import require, require_at_least


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """View slides, prototypes, attention and predictions in the browser, with deep zoom.

    slpd view study/

    slpd view eval/ --cache cache/ --manifest cohort.csv

    Serves a page on 127.0.0.1 until Ctrl-C is pressed, without accessing the network. Requires the view extra. On a
    cluster, forward the port: ssh -L 8765:127.0.0.1:8765 NODE.
    """

    folder: Path
    """A token cache, a run of `slpd pretrain`, a folder of `slpd mil-eval` or `slpd predict`, or a folder with several
    of them, such as that of `slpd study` or `slpd demo`."""

    cache: Path | None = None
    """Token cache, if it is not in the folder, or if the folder contains several."""

    manifest: Path | None = None
    """Cohort CSV with `slide_path`, labels and patients. Default: the manifest that the results in the folder were
    made from, if it still exists."""

    slides_root: Path | None = None
    """Base folder of relative slide paths. Default: the manifest's folder."""

    slide: str | None = None
    """Slide to show first."""

    # -- Server --

    port: int = 8765
    """Port on 127.0.0.1. If it is in use, the next free one of the ten that follow is used. 0: any free port."""

    browser: bool = True
    """Open the page in a browser, if there is one."""

    readers: int = 2
    """Number of processes that read slides."""

    def __post_init__(self) -> None:
        """Check each value."""
        require(0 <= self.port < 65536, "--port", self.port, "0 to 65535")
        require_at_least(1, "readers", self.readers)
