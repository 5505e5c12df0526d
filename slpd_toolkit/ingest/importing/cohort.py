"""Reading the features of a cohort. Some slides are read first and determine encoder and geometry of the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.foreign.consensus import choose_cohort
from slpd_toolkit.foreign.features import MissingSettingError, Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slpd_toolkit.config.import_features import ImportConfig
    from slpd_toolkit.foreign.consensus import Cohort
    from slpd_toolkit.foreign.features import SlideFeatures
    from slpd_toolkit.foreign.format import Format
    from slpd_toolkit.ingest.importing.targets import ImportTarget

_VOTERS = 9


class FeatureReader:
    """Reads the features of targets; those read to choose the cohort are not read again.

    Args:
        config: Settings.
        source_format: Format of the files.
    """

    def __init__(self, config: ImportConfig, source_format: Format) -> None:
        self._config, self._format = config, source_format
        self._voters: dict[str, SlideFeatures] = {}

    def read(self, target: ImportTarget) -> SlideFeatures:
        """Read one slide.

        Raises:
            SlideError: A file is damaged or inconsistent, or lacks information that the user can provide.
        """
        return self._voters.pop(target.slide_id, None) or self._read(target)

    def choose_cohort(self, targets: Sequence[ImportTarget]) -> Cohort | None:
        """Read some slides, spread over the folder, and choose what most of them have; None if none can be read.

        Raises:
            UsageError: The files lack information that the user must provide, or --region-px does not match them.
        """
        missing: list[MissingSettingError] = []
        voters = sorted({round(index) for index in np.linspace(0, len(targets) - 1, _VOTERS)}) if targets else []
        rest = [index for index in range(len(targets)) if index not in voters]
        for index in [*voters, *rest]:
            if index in rest and self._voters:
                break
            try:
                self._voters[targets[index].slide_id] = self._read(targets[index])
            except MissingSettingError as error:
                missing.append(error)
            except Exception:  # noqa: BLE001, S112 - the error is reported when the slide is imported
                continue
        if missing and not self._voters:
            raise UsageError(missing[0].message, hint=missing[0].hint)
        return choose_cohort(list(self._voters.values()), self._config.region_px) if self._voters else None

    def _read(self, target: ImportTarget) -> SlideFeatures:
        config = self._config
        settings = Settings(
            coords=config.coords,
            encoder=config.encoder_name,
            mpp=config.mpp,
            mpp_l0=target.mpp_l0,
            target_mpp=config.target_mpp,
            region_px=config.region_px or None,
        )
        return self._format.read(target.source, settings)
