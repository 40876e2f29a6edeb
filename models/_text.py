"""Text as characters without a download: all paragraphs of Python's reference manual, which every CPython ships (pydoc_data)."""

from __future__ import annotations

import hashlib
from functools import cache

import torch
from torch import Tensor

CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
"""Newline and printable ASCII; a character's place is its number."""

_SHORTEST = 40  # characters of a paragraph: what is shorter is a heading or a line of code
_HELD_OUT = 10  # one paragraph of so many


def encode(text: str) -> Tensor:
    """int64[characters]; what is not in CHARACTERS becomes a question mark."""
    unknown = CHARACTERS.index("?")
    places = {character: i for i, character in enumerate(CHARACTERS)}
    return torch.tensor([places.get(character, unknown) for character in text])


def decode(numbers: Tensor) -> str:
    return "".join(CHARACTERS[number] for number in numbers.tolist())


@cache
def corpus(held_out: bool) -> Tensor:
    """int64[characters]: the paragraphs to learn from, or those held out, a line each.

    Which is which depends on a paragraph's text alone: one that another Python version has, too, is on the same side there.
    """
    return encode("\n".join(paragraph for paragraph in _paragraphs() if _is_held_out(paragraph) is held_out))


def windows(numbers: Tensor, length: int) -> Tensor:
    """int64[windows, length], one after the other; a rest is left out."""
    return numbers[: len(numbers) // length * length].reshape(-1, length)


def _paragraphs() -> list[str]:
    from pydoc_data.topics import topics

    texts = (" ".join(text.split()) for topic in sorted(topics) for text in topics[topic].split("\n\n"))
    return list(dict.fromkeys(text for text in texts if len(text) >= _SHORTEST))


def _is_held_out(paragraph: str) -> bool:
    return hashlib.sha256(paragraph.encode()).digest()[0] % _HELD_OUT == 0
