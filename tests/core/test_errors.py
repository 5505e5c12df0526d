from __future__ import annotations

import pytest

from slpd_toolkit.core.errors import CacheError, Problems, UsageError


def fail(error: Exception) -> None:
    raise error


def test_a_single_problem_stays_what_it_is() -> None:
    problems = Problems()
    with problems.gathered():
        fail(CacheError("Cut short.", hint="Copy it again."))
    with pytest.raises(CacheError, match="Cut short") as caught:
        problems.raise_any()
    assert caught.value.hint == "Copy it again."


def test_several_problems_become_one_with_a_line_each() -> None:
    problems = Problems()
    for number in (1, 2):
        with problems.gathered():
            fail(UsageError(f"Wrong {number}.", hint=f"Do {number}."))
    with pytest.raises(UsageError) as caught:
        problems.raise_any()
    assert caught.value.message == "2 problems found:\n  - Wrong 1. Do 1.\n  - Wrong 2. Do 2."


def test_what_no_user_caused_is_not_gathered_and_nothing_is_no_problem() -> None:
    problems = Problems()
    with pytest.raises(KeyError), problems.gathered():
        raise KeyError
    problems.raise_any()
