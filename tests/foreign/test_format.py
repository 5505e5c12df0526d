"""A format is one file: dropped into the package's folders, it is in the help, in errors, and imports."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from slpd_toolkit.commands import import_features
from slpd_toolkit.config.import_features import ImportConfig
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.foreign import formats
from slpd_toolkit.foreign.format import FORMATS, load
from slpd_toolkit.store.token_file import TokenFile
from tests.foreign.factory import features_of, lattice_of

if TYPE_CHECKING:
    from pathlib import Path

DUMMY = '''"""Dummy: give the folder of .dummy files.

They are .npz files of another name.
"""

import numpy as np

from slpd_toolkit.foreign.features import SlideFeatures
from slpd_toolkit.foreign.format import one_file_per_slide, require_one
from slpd_toolkit.foreign.rows import ArrayRows

FOLDER, SUFFIXES, NOT_FEATURES, INNER_FOLDERS, READS_COORDS = "the dummy's folder", (".dummy",), (), (), False
group = one_file_per_slide


def recognises(path):
    return True


def read(slide, settings):
    path = require_one(slide)
    with np.load(path) as arrays:
        features, coords = arrays["features"], arrays["coords"].astype(np.float64)
    return SlideFeatures(
        slide_id=path.stem, tool="dummy", files=(path,), features=ArrayRows(features), coords_l0=coords, patch_l0=256.0,
        steps_l0=(256.0,), patch_px=256, mpp_l0=0.5, target_mpp=0.5, encoder="dummy",
    )
'''

IN_HELP = """
import sys
from slpd_toolkit.foreign import formats
formats.__path__.append(sys.argv.pop(1))
from slpd_toolkit.cli import app
try:
    app.main()
finally:
    assert not {"torch", "h5py"} & set(sys.modules)
"""


@pytest.fixture
def dummy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "more_formats"
    folder.mkdir()
    (folder / "dummy.py").write_text(DUMMY)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(folder)])
    monkeypatch.delitem(sys.modules, f"{formats.__name__}.dummy", raising=False)
    return folder


def test_the_formats_that_are_shipped() -> None:
    assert FORMATS.names() == ("atlas-patch", "clam", "hipt", "slide2vec", "stamp", "trident")
    for name in FORMATS.names():
        assert load(name).SUFFIXES
        assert FORMATS.summary(name).endswith(".")


@pytest.mark.parametrize("name", [None, "dummy"])
def test_a_format_dropped_into_the_package_is_imported(dummy: Path, tmp_path: Path, name: str | None) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with (source / "a.dummy").open("wb") as file:
        np.savez(file, features=features_of(16), coords=lattice_of(4, 4, 256))
    config = ImportConfig(source=source, out=tmp_path / "cache", tool=name or "auto", region_px=1024)
    assert import_features.run(config) == 0
    file_of_slide = TokenFile.open(tmp_path / "cache" / "a.h5")
    assert np.array_equal(file_of_slide.tokens.reshape(16, 8), features_of(16).astype(np.float16))


def test_a_format_dropped_into_the_package_is_in_the_error_that_lists_them(dummy: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="got dumy, allowed: atlas-patch, clam, dummy, hipt, slide2vec, stamp, trident"
    ) as caught:
        import_features.run(ImportConfig(source=tmp_path, out=tmp_path / "cache", tool="dumy"))
    assert caught.value.hint == "Did you mean dummy?"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--help"], 0, "dummy        Dummy: give the folder of .dummy files."),
        (["dummy", "--help"], 0, "They are .npz files of another name."),
        (["dumy", "folder", "--out", "cache"], 2, "allowed: atlas-patch, clam, dummy, hipt, slide2vec, stamp, trident"),
    ],
)
def test_a_format_dropped_into_the_package_is_in_the_help_without_torch(
    dummy: Path, words: list[str], code: int, said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_HELP, str(dummy), "import", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
