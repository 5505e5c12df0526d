from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slpd_toolkit.commands import inspect as inspection
from slpd_toolkit.config.inspect import InspectConfig
from slpd_toolkit.core.errors import CacheError, UsageError
from slpd_toolkit.store.token_file import TokenFile
from tests.cohorts import write_token_file

if TYPE_CHECKING:
    from pathlib import Path


def flat(text: str) -> str:
    """Return the text of a table without line breaks."""
    return " ".join(text.split())


def test_a_file_is_told_in_words_and_units(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_token_file(
        tmp_path / "s0.h5", regions=3, slide_width_l0=50_000, slide_height_l0=40_000, mpp_l0=0.25, upsampling=1.25
    )
    assert inspection.run(InspectConfig(path=tmp_path / "s0.h5")) == 0
    said = flat(capsys.readouterr().out)
    for text in (
        "Token file s0.h5",
        "s0, 50,000 x 40,000 px at 0.25 um/px (12.50 mm x 10.00 mm)",
        "3 regions x 4 x 4 patches x 8 features, float16",
        "256 px at 0.5 um/px (0.13 mm)",
        "64 px at 0.5 um/px (32 um)",
        "random, input 64 px, fp32",
        "sha256 0000000000",
        "mean 0.5, 0.5, 0.5, std 0.5, 0.5, 0.5 of RGB in 0-1",
        "upsampled by a factor of 1.25",
        "at least 10% tissue",
        "slpd-tokens 2",
    ):
        assert text in said, text


def test_a_file_without_regions_is_told_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_token_file(tmp_path / "s0.h5", regions=0)
    assert inspection.run(InspectConfig(path=tmp_path / "s0.h5")) == 0
    assert "no regions" in capsys.readouterr().out


def test_a_cache_is_told_as_a_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, regions in (("a", 1), ("b", 5), ("c", 3)):
        write_token_file(tmp_path / f"{name}.h5", regions=regions)
    assert inspection.run(InspectConfig(path=tmp_path)) == 0
    said = flat(capsys.readouterr().out)
    for text in ("slides 3", "9 in total; 1 to 5 per slide, median 3", "144 tokens of 8 features", "KiB"):
        assert text in said, text


def test_a_broken_file_of_a_cache_is_named_and_the_rest_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_token_file(tmp_path / "a.h5")
    (tmp_path / "b.h5").write_bytes(b"broken")
    assert inspection.run(InspectConfig(path=tmp_path)) == 1
    out, err = capsys.readouterr()
    assert "b.h5 cannot be read as a token file" in err
    assert "slides 1" in flat(out)
    (tmp_path / "a.h5").unlink()
    assert inspection.run(InspectConfig(path=tmp_path)) == 1
    assert capsys.readouterr().out == ""


def test_a_mixed_cache_is_an_error(tmp_path: Path) -> None:
    write_token_file(tmp_path / "a.h5")
    write_token_file(tmp_path / "b.h5", encoder="hipt")
    with pytest.raises(CacheError, match=r"b\.h5 does not match"):
        inspection.run(InspectConfig(path=tmp_path))


def test_nothing_to_inspect_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        inspection.run(InspectConfig(path=tmp_path / "absent"))
    with pytest.raises(UsageError, match=r"has no token file"):
        inspection.run(InspectConfig(path=tmp_path))
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UsageError, match=r"a\.txt is not a token file \(\*\.h5\)"):
        inspection.run(InspectConfig(path=tmp_path / "a.txt"))


def test_missing_patches_are_told_where_there_are_any(
    cache: Path, gappy_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = [TokenFile.open(path).missing_patches for path in sorted(gappy_cache.glob("*.h5"))]
    assert inspection.run(InspectConfig(path=gappy_cache)) == 0
    assert f"missing patches {sum(missing):,} of 1,080 ({sum(missing) / 1080:.1%})" in flat(capsys.readouterr().out)
    assert inspection.run(InspectConfig(path=gappy_cache / "slide002.h5")) == 0
    assert f"missing patches {missing[2]} of 216 ({missing[2] / 216:.1%})" in flat(capsys.readouterr().out)
    for path in (cache, gappy_cache / "slide000.h5"):
        assert inspection.run(InspectConfig(path=path)) == 0
        assert "missing patches" not in flat(capsys.readouterr().out)
