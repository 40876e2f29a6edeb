"""Options as users write them: the fields of a frozen dataclass, read strictly from a mapping.

Errors name the place and offer the nearest valid name: "recipe.yaml: passes[0].prune.sparsty: no such field; did you mean 'sparsity'?".
"""

# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false
# Values come as Any from YAML, and stay that until pydantic has looked at them.

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from sparsecc.errors import RecipeError
from sparsecc.registry import did_you_mean

T = TypeVar("T")
N = TypeVar("N")
MAX_ENTRIES = 100_000  # of lists in lists, each counted as often as it stands somewhere
_MAX_DEPTH = 50
_LARGEST = 1 << 63  # what no count, seed or size exceeds


def build(cls: type[T], options: Mapping[str, Any], where: str) -> T:
    """The dataclass with these fields. Its own errors begin with the field's name, so that they continue `where`.

    Raises RecipeError for a field that does not exist, is missing, has another type, or that the class refuses.
    """
    known = fields(cls)  # type: ignore[arg-type]
    names = [f.name for f in known]
    for key in options:
        if key not in names:
            raise RecipeError(f"{where}.{_cut(str(key))}: no such field{did_you_mean(str(key), names)}")
    for f in known:
        if f.name not in options and f.default is MISSING and f.default_factory is MISSING:
            raise RecipeError(f"{where}.{f.name}: missing")
    checked = _check_types(cls, options, where)
    try:
        return cls(**checked)
    except RecipeError as error:
        raise RecipeError(f"{where}.{error}") from None


def _check_types(cls: type, options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options as the types that the fields declare; strictly, save that a list is read as a tuple."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    types = typing.get_type_hints(cls)
    strict = ConfigDict(strict=True, allow_inf_nan=False)
    checked: dict[str, Any] = {}
    for key, value in options.items():
        problem = cannot_be_walked(value, _entries)
        if problem or _too_large(value):
            raise RecipeError(f"{where}.{key}: {problem or f'{shown(value)} is larger than anything that this could mean'}")
        try:
            checked[key] = TypeAdapter(types[key], config=strict).validate_python(_tuples(value))
        except ValidationError as error:
            raise RecipeError(f"{where}.{key}: {_explain(error, types[key], value)}") from None
    return checked


def cannot_be_walked(root: N, children: Callable[[N], Iterable[N]]) -> str | None:
    """What is wrong with a nest of lists that walking it would not end, or not soon: one may hold itself, or another a billion times."""
    waiting, count = [(root, 1)], 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if depth > _MAX_DEPTH:
            return "nested too deeply for a recipe, or in itself"
        if count + len(waiting) > MAX_ENTRIES:
            return f"stands for more than {MAX_ENTRIES} entries"
        waiting.extend((child, depth + 1) for child in children(value))
    return None


def _entries(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, list | tuple) else ()


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _explain(error: Any, wanted: Any, value: Any) -> str:
    """What is wrong with a value, in one line."""
    if typing.get_origin(wanted) is tuple and isinstance(value, str):
        return f"expected a list, as [{value!r}], not text"
    first = error.errors(include_url=False)[0]
    if first["type"] in ("missing", "too_long"):  # of a tuple with a fixed number of entries
        return f"expected a list of another length, not {shown(value)}"
    message = first["msg"].removeprefix("Input should be ").replace("valid tuple", "list")
    message = message.replace("a valid integer", "an integer").replace("valid ", "")
    return f"expected {message}, not {shown(first['input'])}"


def shown(value: Any) -> str:
    """A value as one would write it, cut to what a line can hold."""
    if isinstance(value, int) and abs(value) >= _LARGEST:
        return "a number of many digits"  # Python refuses to write some of them
    return _cut(repr(list(value) if isinstance(value, tuple) else value))


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _too_large(value: Any) -> bool:
    return any(map(_too_large, _entries(value))) or (isinstance(value, int) and abs(value) >= _LARGEST)


def kind(value: Any) -> str:
    """What a value is, in words of YAML."""
    names = {type(None): "nothing", str: "text", list: "a list", tuple: "a list", bool: "true/false", int: "a number", float: "a number"}
    if isinstance(value, Mapping):
        return f"a mapping with the keys {shown(list(value))}" if value else "an empty mapping"
    return names.get(type(value), type(value).__name__)
