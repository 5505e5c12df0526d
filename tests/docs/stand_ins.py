"""Stand-ins for the commands of a page while its blocks are run: small work instead of hours, no cluster, no pip.

The first argument is the command to replace. `slpd` is the real command, with the flags of `SMALLER` after those of the
page, so that they take precedence. The text of a page is never changed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(os.environ["SLPD_REPOSITORY"])
SMALLER = {
    "embed": "--mpp 1.0 --region-px 128 --patch-px 32 --device cpu --precision fp32 --workers 1 --cluster=",
    "pretrain": "--epochs 2 --batch-size 16 --warmup-epochs 1 --prototype-epoch 1 --clusters 2 --min-regions 2 "
    "--depth 1 --global-side 3 --local-side 2 --local-crops 2 --embed-dim 24 --hidden-dim 32 --bottleneck-dim 16 "
    "--out-dim 64 --log-every 1 --device cpu",
    "demo": "--tiny --jobs 1",
    "study": "--embed-recipe small-embed.toml --pretrain-recipe small-pretrain.toml --eval-recipe small-eval.toml "
    "--folds 3 --aggregator abmil --epochs 1 --device cpu --jobs 1",
    "mil-eval": "--folds 3 --repeats 1 --steps 40 --permutations 50 --jobs 1 --device cpu --cluster=",
}
OTHER_ENCODERS = {
    "uni.toml": "--encoder timm:vit_tiny_patch16_224?init_values=1e-5&img_size=32 --mean imagenet --std imagenet "
    "--pooling cls",
    "biopsy.toml": "--region-px 64",
}
"""For recipes that name a large model or a geometry of their own."""


def main(name: str, arguments: list[str]) -> int:
    if name == "slpd":
        return slpd(arguments)
    if name in {"torchrun", "srun", "python"}:
        return start(name, arguments)
    if name == "sbatch":
        task = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_JOB_ID": "1"}
        node = {"SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "localhost"}
        return subprocess.call(["bash", "-euo", "pipefail", *arguments], env=os.environ | task | node)
    if name in {"ray", "scontrol", "sleep"}:
        print("localhost")  # noqa: T201 - what scontrol prints
        return 0
    if name == "make":
        targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        return int(not set(arguments) <= set(targets))
    if name == "pip":
        return int("slpd-toolkit" not in arguments[-1] and arguments[-1].strip("'")[:1] != ".")
    raise SystemExit(f"no stand-in for {name}")


def slpd(arguments: list[str]) -> int:
    known = SMALLER.get(arguments[0] if arguments else "", "")
    special = [flags for recipe, flags in OTHER_ENCODERS.items() if any(word.endswith(recipe) for word in arguments)]
    smaller = [] if "--help" in arguments else [*known.split(), *" ".join(special).split()]
    return subprocess.call([sys.executable, "-m", "slpd_toolkit", *arguments, *smaller])


def start(name: str, arguments: list[str]) -> int:
    """Run what torchrun or srun would start, as one process."""
    if name == "srun":
        first = next(index for index, word in enumerate(arguments) if word in {"ray", "torchrun"})
        return main(arguments[first], arguments[first + 1 :])
    module = arguments.index("-m")
    assert arguments[module + 1] == "slpd_toolkit"
    return slpd(arguments[module + 2 :])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
