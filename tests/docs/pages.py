"""The pages that users read, and the blocks of code in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

README = REPOSITORY / "README.md"
PAGES = [
    README,
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "manifests/README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]

_FENCE = re.compile(r"^```+(?:\{(?P<directive>[\w-]+)\} ?(?P<argument>\S*)|(?P<language>\S*))\s*$")
_NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
_OPTION = re.compile(r"^:(\w+): (.+)$")
PROSE_LANGUAGES = {
    "text",
    "pycon",
    "code-cell",
    "csv",
    "toctree",
    "include",
    "glossary",
    "eval-rst",
    "literalinclude",
    "figure",
    "image",
    "bibtex",
}
"""Blocks that hold nothing to be run as a script; tests/api runs those in `pycon`, and `make docs` those in
`code-cell`."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    caption: str = ""
    not_run: str = ""
    """Why it cannot be run here; empty for blocks that are."""

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


def read_blocks(page: Path) -> list[Block]:
    """Read the fenced blocks of a page, in order."""
    blocks: list[Block] = []
    opening: tuple[int, re.Match[str]] | None = None
    inside: list[str] = []
    reason = ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if opening is None:
            if match := _FENCE.match(line):
                opening, inside = (number, match), []
            elif line.strip():
                found = _NOT_RUN.search(line)
                reason = found[1] if found else ""
        elif line.rstrip() == "```":
            blocks.append(_block(page, *opening, inside, reason))
            opening, reason = None, ""
        else:
            inside.append(line)
    assert opening is None, f"{page}: the last block never ends"
    return blocks


def _block(page: Path, line: int, fence: re.Match[str], inside: list[str], reason: str) -> Block:
    if not fence["directive"]:
        return Block(page, line, fence["language"] or "text", "\n".join(inside), not_run=reason)
    options = {}
    while inside and (match := _OPTION.match(inside[0])):
        options[match[1]] = match[2]
        inside = inside[1:]
    language = fence["argument"] if fence["directive"] == "code-block" else fence["directive"]
    return Block(page, line, language, "\n".join(inside).strip("\n"), options.get("caption", ""), reason)


ALL_BLOCKS = [block for page in PAGES for block in read_blocks(page)]


def commands(block: Block) -> Iterator[list[str]]:
    """Return the words of each command of a shell block; `\\` at a line's end joins lines."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def slpd_commands(block: Block) -> Iterator[list[str]]:
    """Return the arguments of each `slpd` command, also if it is started by torchrun or python."""
    for words in commands(block):
        for index, word in enumerate(words):
            if word == "slpd" or word.endswith("/slpd"):
                yield words[index + 1 :]
                break
            if word == "-m" and words[index + 1 : index + 2] == ["slpd_toolkit"]:
                yield words[index + 2 :]
                break
