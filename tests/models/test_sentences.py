from __future__ import annotations

import pytest

from models._sentences import sentences
from sparsecc.errors import UserError


def test_sentences_are_distinct_prose() -> None:
    found = sentences(1000)
    assert len(dict.fromkeys(found)) == 1000
    assert all(s.endswith(".") and s[0].isupper() and 6 <= len(s.split()) <= 40 for s in found)


def test_skip_gives_the_sentences_that_follow() -> None:
    assert sentences(5, skip=10) == sentences(15)[10:]


def test_asking_for_too_many_is_an_error() -> None:
    with pytest.raises(UserError, match="asked for 0 \\+ 1000000, there are"):
        sentences(1_000_000)
