"""patterns/__init__.py: what a recipe's text means."""

from __future__ import annotations

import pytest

from sparsecc import patterns
from sparsecc.errors import RecipeError
from sparsecc.patterns.base import Pattern
from sparsecc.patterns.block import Block
from sparsecc.patterns.nm import NM
from sparsecc.patterns.unstructured import Unstructured

PATTERNS = {"unstructured": Unstructured(), "4x1": Block(4, 1), "1x16": Block(1, 16), "2:4": NM(2, 4), "3:7": NM(3, 7)}


@pytest.mark.parametrize(("text", "pattern"), PATTERNS.items())
def test_a_text_is_one_pattern(text: str, pattern: Pattern) -> None:
    assert patterns.parse(text) == pattern
    assert str(pattern) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("3:2", "did you mean '2:3'"),
        ("0:4", "keeps nothing"),
        ("4:4", "keeps every weight"),
        ("2:512", "at most 256"),
        ("0x4", "at least one row"),
        ("1x1", "unstructured"),
        ("2;4", r"none of RxC \(as '4x1'\), N:M \(as '2:4'\) and 'unstructured'; did you mean '2:4' or '2x4'"),
        ("4x", "none of"),
        ("", "none of"),
        ("block", "none of"),
    ],
)
def test_texts_that_cannot_be(text: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        patterns.parse(text)
