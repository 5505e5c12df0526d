"""Settings of `slpd view`."""

from dataclasses import dataclass
from pathlib import Path

from slpd_toolkit.config.checks import require, require_at_least


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Look at slides, prototypes, attention and predictions in the browser, with deep zoom.

    slpd view study/

    slpd view eval/ --cache cache/ --manifest cohort.csv

    Serves a page on 127.0.0.1 until Ctrl-C, without access to the network; needs the extra `view`. On a cluster,
    forward the port: ssh -L 8765:127.0.0.1:8765 NODE.
    """

    folder: Path
    """A token cache, a run of `slpd pretrain`, a folder of `slpd mil-eval` or `slpd predict`, or a folder with several
    of them, such as that of `slpd study` or `slpd demo`."""

    cache: Path | None = None
    """Token cache, if it is not below the folder, or if there are several."""

    manifest: Path | None = None
    """Cohort CSV with `slide_path`, labels and patients. Default: the one that the results below the folder were made
    from, if it still exists."""

    slides_root: Path | None = None
    """Base folder of relative slide paths. Default: the manifest's folder."""

    slide: str | None = None
    """Slide that is shown first."""

    # -- Server --

    port: int = 8765
    """Port on 127.0.0.1. If it is in use, one of the next ten is taken. 0: any free port."""

    browser: bool = True
    """Open the page in a browser, if there is one."""

    readers: int = 2
    """Number of processes that read slides."""

    def __post_init__(self) -> None:
        """Check each value."""
        require(0 <= self.port < 65536, "--port", self.port, "0 to 65535")
        require_at_least(1, "readers", self.readers)
