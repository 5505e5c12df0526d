"""Counts with their nouns and verbs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import slpd_toolkit
from slpd_toolkit.core.text import agree, count


@pytest.mark.parametrize(
    ("amount", "words", "text"),
    [
        (0, ("slide",), "0 slides"),
        (1, ("slide",), "1 slide"),
        (12_345, ("slide",), "12,345 slides"),
        (1, ("patch", "patches"), "1 patch"),
        (2, ("patch", "patches"), "2 patches"),
        (1, ("slide is", "slides are"), "1 slide is"),
        (0, ("slide is", "slides are"), "0 slides are"),
    ],
)
def test_a_count_agrees_with_its_noun_and_verb(amount: int, words: tuple[str, ...], text: str) -> None:
    assert count(amount, *words) == text


def test_a_verb_agrees_with_a_count() -> None:
    assert [agree(amount, "has", "have") for amount in (0, 1, 2)] == ["have", "has", "have"]


def test_no_message_counts_slides_or_patients_without_looking_at_the_number() -> None:
    unguarded = re.compile(r"\{(?!count|agree)[^{}]*(?:len|sum)\([^{}]*\} (?:slides|patients|regions|heads|files)\b")
    found = [
        f"{path.name}: {line.strip()}"
        for path in Path(slpd_toolkit.__file__).parent.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if unguarded.search(line) and "__repr__" not in line and "return f" not in line and "progress" not in line
    ]
    assert not found
