"""Dataclasses out of what JSON gives, each field held against its type: whoever prints a report relies on what stands in it."""

# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false
# Data come as Any from JSON, and stay that until they are held against a type.

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
_MOST = 2**63 - 1  # of whole numbers, and of a shape's product


def made(kind: type[T], data: Any, where: str = "") -> T:
    """One of a dataclass. Lists become tuples; null, for which JSON has no other word, infinity where a number has to stand.

    Raises ValueError, which says where in the data something else stands than the field's type allows.
    """
    head = f"{where}: " if where else ""
    if not isinstance(data, Mapping):
        raise ValueError(f"{head}{kind.__name__} is no mapping")
    known: list[Any] = list(fields(kind))  # type: ignore[arg-type]
    unknown = sorted(map(str, set(data) - {field.name for field in known}))
    if unknown:
        raise ValueError(f"{head}{kind.__name__} has no field {unknown[0]!r}")
    missing = [field.name for field in known if field.name not in data and (field.default, field.default_factory) == (MISSING, MISSING)]
    if missing:
        raise ValueError(f"{head}{kind.__name__} lacks the field {missing[0]!r}")
    types_of = get_type_hints(kind)
    return kind(**{name: _value(types_of[name], value, f"{where}.{name}" if where else name) for name, value in data.items()})


def _value(kind: Any, value: Any, where: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else _value(inner[0], value, where)
    if is_dataclass(kind) and isinstance(kind, type):
        return made(kind, value, where)
    if origin is tuple and isinstance(value, list | tuple):
        found = tuple(_value(inner[0], part, f"{where}[{number}]") for number, part in enumerate(value))
        if inner[0] is int and not abs(math.prod(found)) <= _MOST:
            raise ValueError(f"{where}: {list(found)} has more elements than any tensor")
        return found
    if origin is dict and isinstance(value, Mapping):
        return {str(key): _value(inner[1], part, f"{where}.{key}") for key, part in value.items()}
    if origin is Literal and value in inner:
        return value
    if kind is float and value is None:
        return math.inf
    if kind in (float, int) and isinstance(value, (int, kind)) and not isinstance(value, bool):
        if isinstance(value, int) and abs(value) > _MOST:
            raise ValueError(f"{where}: {value} is beyond all that is counted")
        return value
    if kind is str and isinstance(value, str):
        return value
    raise ValueError(f"{where}: {_shown(value)} is not {_NAMES.get(kind) or _NAMES.get(origin) or f'one of {inner}'}")


_NAMES: dict[Any, str] = {float: "a number", int: "a whole number", str: "text", tuple: "a list", dict: "a mapping"}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
