"""Train in the process group that the environment describes, and print its backend.

python -m benchmarks.gpu.one_rank CACHE OUT DEVICE
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu.place import prepare


def main(cache: str, out: str, device: str) -> int:
    prepare()  # before the command is imported
    from torch import distributed

    from benchmarks.gpu.parts.pretrain import EXACT
    from slpd_toolkit.commands import pretrain
    from slpd_toolkit.config.pretrain import PretrainConfig
    from slpd_toolkit.config.recipe import build

    destroy = distributed.destroy_process_group

    def name_and_destroy(*given: Any) -> None:
        print(distributed.get_backend(), flush=True)
        destroy(*given)

    setattr(distributed, "destroy_process_group", name_and_destroy)  # noqa: B010
    return pretrain.run(build(PretrainConfig, {"cache": Path(cache), "out": Path(out), **EXACT, "device": device}))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
