from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slpd_toolkit.config.embed import EmbedConfig
from slpd_toolkit.config.recipe import build
from slpd_toolkit.core.errors import UsageError

NAN, INF = float("nan"), float("inf")


def config(**values: Any) -> EmbedConfig:
    return build(EmbedConfig, {"manifest": Path("m.csv"), "out": Path("cache"), **values})


def test_the_defaults_leave_the_geometry_to_the_encoder() -> None:
    default = config()
    assert (default.mpp, default.region_px, default.patch_px) == (None, None, None)
    assert default.shard_of_n == (1, 1)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"mpp": -1.0}, r"--mpp: got -1\.0, allowed: a positive number of um/px"),
        ({"mpp": 0.0}, r"--mpp: got 0\.0"),
        ({"mpp": NAN}, "--mpp: got nan"),
        ({"mpp": INF}, "--mpp: got inf"),
        ({"patch_px": 15}, "--patch-px: got 15, allowed: at least 16"),
        ({"patch_px": -256}, "--patch-px: got -256"),
        ({"patch_px": 0}, "--patch-px: got 0, allowed: at least 16"),
        ({"region_px": 0}, "--region-px: got 0, allowed: a positive number of px"),
        (
            {"region_px": 4000, "patch_px": 256},
            r"--region-px: got 4000, allowed: a multiple of the patch size \(256 px\)\. Use 4096\.",
        ),
        ({"region_px": 128, "patch_px": 256}, r"--region-px: got 128, .* Use 256\."),
        ({"region_px": -4096}, "--region-px: got -4096"),
        ({"min_tissue": -0.1}, r"--min-tissue: got -0\.1, allowed: a fraction from 0 to 1"),
        ({"min_tissue": 1.1}, r"--min-tissue: got 1\.1"),
        ({"min_tissue": NAN}, "--min-tissue: got nan"),
        ({"max_upsample": 0.9}, r"--max-upsample: got 0\.9"),
        ({"max_upsample": INF}, "--max-upsample: got inf"),
        ({"batch_size": -1}, "--batch-size: got -1"),
        ({"workers": -1}, "--workers: got -1"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        config(**values)


@pytest.mark.parametrize(
    "values", [{"min_tissue": 0.0}, {"min_tissue": 1.0}, {"max_upsample": 1.0}, {"patch_px": 16, "region_px": 16}]
)
def test_the_ends_of_the_ranges_are_allowed(values: dict[str, Any]) -> None:
    config(**values)


@pytest.mark.parametrize(
    "shard", ["0/1", "2/1", "1/0", "0/0", "-1/2", "1", "1/", "/2", "a/b", "1/2/3", "1.0/2", "", " 1/2", "²/3"]
)
def test_a_shard_that_is_none_is_refused(shard: str) -> None:
    with pytest.raises(UsageError, match=r"--shard: got .*allowed: i/n with 1 <= i <= n\.") as caught:
        config(shard=shard)
    assert caught.value.hint == "The third of eight jobs is 3/8."


def test_a_shard_is_a_pair_of_numbers() -> None:
    assert config(shard="3/8").shard_of_n == (3, 8)
