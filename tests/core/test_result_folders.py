from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.result_folders import require_results_of

if TYPE_CHECKING:
    from pathlib import Path

WRITTEN_BY = {
    "pretrain": "region_vit.pt",
    "pretrain-slides": "slide_vit.pt",
    "mil-eval": "folds.csv",
    "predict": "heads.csv",
    "represent": "about.json",
}


@pytest.mark.parametrize("command", WRITTEN_BY)
def test_no_command_writes_over_the_results_of_another(command: str, tmp_path: Path) -> None:
    require_results_of(command, tmp_path / "new")
    (tmp_path / WRITTEN_BY[command]).touch()
    for other in WRITTEN_BY:
        if other == command:
            require_results_of(other, tmp_path)
        else:
            with pytest.raises(UsageError, match=f"slpd {command}` .*whose files would be overwritten"):
                require_results_of(other, tmp_path)
