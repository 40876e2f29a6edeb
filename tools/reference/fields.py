"""The fields of a frozen dataclass as a table: name, type, default, meaning."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from typing import Any, Literal, Union

from tools.reference.docstrings import Described, cell, sentence, table

_WORDS = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "nothing"}


def names_of(cls: type) -> list[str]:
    return [field.name for field in fields(cls)]


def field_table(cls: type, meanings: Described, only: Iterable[str] | None = None) -> str:
    """Raises LookupError for a field whose meaning no docstring tells."""
    hints = typing.get_type_hints(cls)
    wanted = names_of(cls) if only is None else list(only)
    rows = []
    for field in fields(cls):
        if field.name not in wanted:
            continue
        if field.name not in meanings.fields:
            where = f"{cls.__module__}.{cls.__name__}"
            raise LookupError(f"{where}: its docstring does not describe the field {field.name!r}; add '{field.name}: ...'")
        rows.append([f"`{field.name}`", cell(type_words(hints[field.name])), _default(field), cell(sentence(meanings.fields[field.name]))])
    return table(["field", "type", "default", "meaning"], rows)


def type_words(hint: Any) -> str:
    """A type as a recipe sees it: `tuple[str, ...] | None` is "list of text"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(type_words(argument) for argument in arguments if argument is not type(None))
    if origin is Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin is tuple and Ellipsis in arguments:
        return f"list of {type_words(arguments[0])}"
    if origin is tuple:
        return f"list of {len(arguments)} {type_words(arguments[0])}s"
    if origin is not None and issubclass(origin, typing.Mapping | dict):  # type: ignore[arg-type]
        return "mapping"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)).lower())


def _default(field: Field[Any]) -> str:
    if field.default is MISSING and field.default_factory is MISSING:
        return "needed"
    value = field.default if field.default is not MISSING else field.default_factory()  # type: ignore[misc]
    if value is None:
        return "none"
    if isinstance(value, str):
        return f"`{value}`"
    return f"`{json.dumps(value)}`"
