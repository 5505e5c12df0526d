"""The stages of a study as SLURM jobs: an array for the slides, then one job per stage, in the order they need."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from slpd_toolkit.config.command_line import command_line
from slpd_toolkit.config.study_stages import EMBED
from slpd_toolkit.core.files import make_folder, write_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slpd_toolkit.commands.study.stages import Stage
    from slpd_toolkit.config.study import StudyConfig

FOLDER = "slurm"
ALL = "embed-all"
"""Job after the array of the stage `embed`: checks that no slide is missing, and writes one failures.csv."""
_TASKS = 8
_HOUR_S = 3600
_MARGIN = 3
"""Requested time and memory, relative to the estimates, which may be from another machine."""
_LEAST_GIB = 8
_AFTER = {"DINO": (EMBED,), "SLPD": (EMBED,), "evaluation": ("DINO", "SLPD"), "prototypes": ("SLPD",)}
_AFTER |= {"heatmaps": ("evaluation",)}
_ON_GPU = frozenset({EMBED, "DINO", "SLPD", "evaluation"})


def write_jobs(config: StudyConfig, stages: Sequence[Stage], needs: Mapping[str, tuple[float, float]]) -> Path:
    """Write `<stage>.sbatch` per stage, and `submit.sh`, which submits them with their dependencies.

    Args:
        config: The study.
        stages: Its stages.
        needs: Estimated seconds and MiB of each stage.

    Returns:
        The folder of the scripts.
    """
    folder = config.out / FOLDER
    make_folder(folder)
    tasks = min(_TASKS, max(1, math.ceil(needs.get(EMBED, (0, 0))[0] / _HOUR_S)))
    names, submit = [stage.name for stage in stages], ["#!/bin/bash", "set -euo pipefail", 'cd "$(dirname "$0")"']
    for stage in stages:
        seconds, mib = needs[stage.name]
        whole = text = stage.command_line()
        array = tasks if stage.name == EMBED and tasks > 1 else 0
        if array:
            text += f" \\\n  --shard $SLURM_ARRAY_TASK_ID/{array}"
        share = seconds / max(1, array)
        script = _script(config, stage.name, text, share, mib, array)
        write_text(folder / f"{stage.name}.sbatch", script)
        submit.append(_submission(stage.name, [name for name in _AFTER.get(stage.name, ()) if name in names]))
        if array:
            write_text(folder / f"{ALL}.sbatch", _script(config, ALL, whole, 600, mib, 0))
            submit.append(_submission(ALL, [EMBED], name=EMBED))
    report = command_line("study", replace(config, plan=None), ("manifest",))
    write_text(folder / "report.sbatch", _script(config, "report", report, 600, _LEAST_GIB * 1024, 0))
    submit.append(_submission("report", names))
    write_text(folder / "submit.sh", "\n".join([*submit, ""]))
    return folder


def _script(config: StudyConfig, name: str, command: str, seconds: float, mib: float, array: int) -> str:
    hours = max(1, math.ceil(seconds * _MARGIN / _HOUR_S))
    gib = max(_LEAST_GIB, math.ceil(mib * _MARGIN / 2 / 1024))
    gpu = name in _ON_GPU and not config.device.startswith("cpu")
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name=slpd-{name}",
        f"#SBATCH --chdir={shlex.quote(str(Path.cwd()))}",
        *([f"#SBATCH --array=1-{array}"] if array else []),
        *(["#SBATCH --gres=gpu:1"] if gpu else []),
        "#SBATCH --cpus-per-task=8",
        f"#SBATCH --mem={gib}G",
        f"#SBATCH --time={hours}:00:00",
        *(["#SBATCH --requeue", "#SBATCH --signal=B:TERM@120"] if name in {"DINO", "SLPD"} else []),
        "",
        f"exec {command}",  # signals of SLURM go to the batch shell, which the command replaces
        "",
    ]
    return "\n".join(lines)


def _submission(script: str, after: Sequence[str], name: str = "") -> str:
    """Return the line that submits a script after others, whether or not some of their slides failed."""
    waits = f" --dependency=afterany:{':'.join(f'${_variable(each)}' for each in after)}" if after else ""
    return f"{_variable(name or script)}=$(sbatch --parsable{waits} {script}.sbatch)"


def _variable(name: str) -> str:
    return name.replace("-", "_")
