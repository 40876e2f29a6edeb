"""English sentences without a download: the prose of Python's own reference manual, which every CPython ships (pydoc_data)."""

from __future__ import annotations

import random
import re
from functools import cache

from sparsecc.errors import UserError

_MARKUP = re.compile(r"[`*_|]+")
_PLAIN = re.compile(r"[A-Z][A-Za-z0-9 ,;:'\"()-]+\.")


def sentences(count: int, skip: int = 0) -> list[str]:
    """`count` distinct sentences of 6 to 40 words in a fixed shuffled order. `skip`: how many to pass over, for a held-out set.

    The same for the same Python version. Raises UserError when the manual has fewer.
    """
    pool = _pool()
    if skip + count > len(pool):
        raise UserError(f"sentences: asked for {skip} + {count}, there are {len(pool)}")
    return pool[skip : skip + count]


@cache
def _pool() -> list[str]:
    from pydoc_data.topics import topics

    found: dict[str, None] = {}  # a dict for its order: sets would shuffle between runs
    for topic in sorted(topics):
        for paragraph in topics[topic].split("\n\n"):
            text = " ".join(_MARKUP.sub("", paragraph).split())
            found.update(dict.fromkeys(s for s in re.split(r"(?<=\.) (?=[A-Z])", text) if _is_prose(s)))
    pool = list(found)
    random.Random(0).shuffle(pool)
    return pool


def _is_prose(text: str) -> bool:
    return 6 <= len(text.split()) <= 40 and _PLAIN.fullmatch(text) is not None
