"""The shape of a model's return value: how flat outputs become the tuple, dict or dataclass that the model returned.

JSON-able, so that an artifact can hold it and a process without torch can read it. A node is `{"kind": "leaf", "index": 0}`,
`{"kind": "none"}`, `{"kind": "constant", "value": 3}`, `{"kind": "list"|"tuple", "items": [...]}`, `{"kind": "dict", "items": {...}}`,
`{"kind": "dataclass"|"namedtuple", "class": "package.module.Name", "items": {...}}` or, for a cache of transformers,
`{"kind": "cache", "class": "package.module.Name", "items": [...]}`, whose items are (key, value) of each layer, or two caches. None in
place of it all: a single output, or a tuple of them.
"""

from __future__ import annotations

import functools
import sys
from collections import namedtuple
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class Record(dict[str, Any]):
    """Stands in for a dataclass (such as transformers' ModelOutput) whose module is not loaded: fields by key, attribute or position."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else tuple(self.values())[key]


def rebuild(structure: Mapping[str, Any] | None, leaves: Sequence[Any]) -> Any:
    """The model's return value from its flat outputs."""
    if structure is None:
        return leaves[0] if len(leaves) == 1 else tuple(leaves)
    match structure["kind"]:
        case "leaf":
            return leaves[structure["index"]]
        case "none":
            return None
        case "constant":
            return structure["value"]
        case "list":
            return [rebuild(item, leaves) for item in structure["items"]]
        case "tuple":
            return tuple(rebuild(item, leaves) for item in structure["items"])
        case "dict":
            return {key: rebuild(item, leaves) for key, item in structure["items"].items()}
        case "dataclass":
            fields = {key: rebuild(item, leaves) for key, item in structure["items"].items()}
            return (_loaded(structure["class"]) or Record)(**fields)
        case "namedtuple":
            name, items = structure["class"], structure["items"]
            make = _loaded(name) or _stand_in(name.rpartition(".")[2], tuple(items))
            return make(*(rebuild(item, leaves) for item in items.values()))
        case "cache":
            return _cache(_loaded(structure["class"]), [rebuild(item, leaves) for item in structure["items"]])
    raise ValueError(f"no output structure of kind {structure['kind']!r}")


def check(structure: Any, outputs: int) -> None:
    """Raises ValueError, or what Python says of a wrong type or key, for one from a file that `rebuild` could not follow."""
    if structure is None:
        return
    match structure["kind"]:
        case "leaf":
            if structure["index"] not in range(outputs):
                raise ValueError(f"an output structure names output {structure['index']} of {outputs}")
        case "list" | "tuple" | "cache":
            _ = structure["kind"] != "cache" or structure["class"].rpartition(".")
            for item in structure["items"]:
                check(item, outputs)
        case "dict" | "dataclass" | "namedtuple":
            _ = structure["kind"] == "dict" or structure["class"].rpartition(".")
            for item in structure["items"].values():
                check(item, outputs)
        case "constant":
            _ = structure["value"]
        case kind if kind != "none":
            raise ValueError(f"no output structure of kind {kind!r}")


def _cache(kind: Any, items: list[Any]) -> Any:
    """A cache as the model returned it; a tuple where transformers is not loaded, and of numpy arrays, which no cache takes."""
    if kind is None or any(isinstance(array, np.ndarray) for item in items if isinstance(item, tuple) for array in item):
        return tuple(items)
    return kind(items) if all(isinstance(item, tuple) for item in items) else kind(*items)


def _loaded(name: str) -> Any:
    """The model's own class where its module is loaded already, otherwise None; nothing is imported on a file's say-so."""
    module, _, attribute = name.rpartition(".")
    return getattr(sys.modules.get(module), attribute, None)


@functools.cache
def _stand_in(name: str, fields: tuple[str, ...]) -> Any:
    return namedtuple(name, fields, rename=True)
