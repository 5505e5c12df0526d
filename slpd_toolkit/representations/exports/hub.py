"""A bundle as a folder that can be uploaded to a model hub: its files, and its model card as README.md."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from slpd_toolkit.core import console
from slpd_toolkit.core.errors import UsageError
from slpd_toolkit.core.files import atomic_path, claim_folder, write_text
from slpd_toolkit.core.folder_lock import is_lock
from slpd_toolkit.mil.bundle.files import DIGESTS, FILES, files_of, is_bundle, remove_bundle
from slpd_toolkit.mil.bundle.reading import choose_bundle, read_bundle, read_card

if TYPE_CHECKING:
    from pathlib import Path

README = "README.md"
_HEADER = """---
library_name: slpd_toolkit
tags:
- computational-pathology
- whole-slide-images
- multiple-instance-learning
---

"""
_USE = """
## Use

```bash
slpd predict FOLDER new.csv --out predictions/
```

FOLDER is this folder, after download. Nothing in it is executed when it is read; `sha256sum -c SHA256SUMS` checks it.
"""


def write_hub_folder(source: Path, out: Path) -> None:
    """Copy a bundle into a new folder; the copy is also a bundle.

    Args:
        source: Folder of an evaluation with a single bundle, or of a bundle.
        out: Folder to write; empty, new, or an earlier export.

    Raises:
        UsageError: The source has no bundle, several, or an incomplete or damaged one; or `out` has other files.
    """
    bundle = choose_bundle(source, None, None)
    found = read_bundle(bundle)
    if out.resolve() == bundle.resolve():
        raise UsageError(f"--out: {out} is the bundle itself.", hint="Choose another folder.")
    if out.is_dir() and not all(map(is_lock, out.iterdir())) and not is_bundle(out):
        raise UsageError(f"--out: {out} is not empty and is not an export.", hint="Choose a new folder.")
    card = read_card(bundle).strip("\n")
    claim_folder(out, (*FILES, README))
    remove_bundle(out)
    for name in (*files_of(found.origin.kind), DIGESTS):  # the digests last: only then is it complete
        with atomic_path(out / name) as partial:
            shutil.copyfile(bundle / name, partial)
    header = "" if card.startswith("---\n") else _HEADER  # an edited card may have its own
    write_text(out / README, f"{header}{card}\n{_USE}")
    console.note(f"Wrote {out}: {found.target} by {found.model}, {found.aggregator}.")
    console.note(
        f"Before you publish it, read {out / README}: its notes and audit findings may name slides, patients and sites."
    )
