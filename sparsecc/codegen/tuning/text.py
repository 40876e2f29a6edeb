"""Tasks, knobs and targets as JSON, the same text for equal values: what crosses pipes and is a key in the records."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def text(value: Any) -> str:
    """A frozen dataclass as JSON."""
    return _adapter(type(value)).dump_json(value).decode()


def parse(kind: type[T], source: str) -> T:
    """What `text` was given. Raises ValueError for anything else."""
    return _adapter(kind).validate_json(source)
