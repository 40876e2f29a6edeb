"""What a traced graph says about its inputs, its outputs, and how the outputs make up the return value."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from sparsecc.errors import ModelError
from sparsecc.graph.base import TensorSpec
from sparsecc.graph.binding import dtype_name
from sparsecc.graph.fx import caches
from sparsecc.graph.fx.layers import aten, stored

_SAME_VALUES = frozenset(  # reshaped, copied or cast
    getattr(aten, name).default for name in ("_to_copy", "view", "_unsafe_view", "reshape", "unsqueeze", "contiguous", "clone")
)


def input_nodes(module: GraphModule) -> list[Node]:
    """The placeholders that take tensors, in order."""
    return [node for node in module.graph.find_nodes(op="placeholder") if isinstance(node.meta.get("val"), Tensor)]


def embeddings(module: GraphModule) -> dict[int, Tensor]:
    """The table [entries, width] that is read at what an input holds, by the place of that input; the first where there are several."""
    found: dict[int, Tensor] = {}
    places = {node: place for place, node in enumerate(input_nodes(module))}
    for node in module.graph.find_nodes(op="call_function", target=aten.embedding.default):
        table, place = stored(node.args[0]), places.get(_reshaped(node.args[1]))
        if table is not None and place is not None:
            found.setdefault(place, table.detach())
    return found


def _reshaped(value: Any) -> Any:
    """What it is another shape, layout or type of; itself where it is none."""
    return _reshaped(value.args[0]) if isinstance(value, Node) and value.target in _SAME_VALUES else value


def specs(module: GraphModule) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """What goes in and out. A free dimension is called after the first input that has it: `input_ids_1` is its axis 1.
    An output may have an expression of such names."""
    symbols: dict[Any, str] = {}
    inputs = []
    for node in input_nodes(module):
        for axis, size in enumerate(node.meta["val"].shape):
            if isinstance(size, torch.SymInt) and not size.node.expr.is_number:
                symbols.setdefault(size.node.expr, f"{node.target}_{axis}")
        inputs.append(_spec(str(node.target), node.meta["val"], symbols))
    outputs = [_spec(f"output_{i}", node.meta["val"], symbols) for i, node in enumerate(output_nodes(module))]
    return tuple(inputs), tuple(outputs)


def output_nodes(module: GraphModule) -> list[Node]:
    """The nodes of the output tensors, in order; constants that the model returns are left out. Raises ModelError for other outputs."""
    nodes = [value for value in _returned(module) if isinstance(value, Node)]
    for node in nodes:
        if not isinstance(node.meta.get("val"), Tensor):
            raise ModelError(f"the model returns {node.name!r}, a number that depends on the input's shape; return tensors only")
    return nodes


def _returned(module: GraphModule) -> Sequence[Any]:
    return next(iter(module.graph.find_nodes(op="output"))).args[0]


def structure(module: GraphModule) -> dict[str, Any]:
    """How the flat outputs make up the model's return value: `runtime.outputs` describes and reads it."""
    numbering = iter(range(len(output_nodes(module))))
    leaves = [{"kind": "leaf", "index": next(numbering)} if isinstance(value, Node) else _constant(value) for value in _returned(module)]
    return _structure(module._out_spec, iter(leaves))  # type: ignore[arg-type]


def _structure(spec: pytree.TreeSpec, leaves: Iterator[dict[str, Any]]) -> dict[str, Any]:
    if spec.is_leaf():
        return next(leaves)
    items = [_structure(child, leaves) for child in spec.children()]
    cache = caches.name_of(spec)
    if cache is not None:
        return _cache(cache, spec, items)
    kind, names = _fields(spec)
    if names is None:
        return {"kind": "tuple" if issubclass(kind, tuple) else "list", "items": items}
    fields = dict(zip(names, items, strict=True))
    if kind in (dict, OrderedDict, defaultdict):
        return {"kind": "dict", "items": fields}
    family = "namedtuple" if issubclass(kind, tuple) else "dataclass"
    return {"kind": family, "class": f"{kind.__module__}.{kind.__qualname__}", "items": fields}


def _cache(name: str, spec: pytree.TreeSpec, items: list[dict[str, Any]]) -> dict[str, Any]:
    """A pair of caches, or a cache of keys and values: a (key, value) for each layer."""
    if not items:
        return {"kind": "none"}
    if all(caches.name_of(child) for child in spec.children()):
        return {"kind": "cache", "class": name, "items": items}
    keys, values = (item["items"] for item in items)
    layers = [{"kind": "tuple", "items": [key, value]} for key, value in zip(keys, values, strict=True)]
    return {"kind": "tuple", "items": layers} if caches.windowed(spec) else {"kind": "cache", "class": name, "items": layers}


def _fields(spec: pytree.TreeSpec) -> tuple[Any, list[str] | None]:
    """The class of a node and the names of its children, None for a list or tuple. Raises ModelError for keys that JSON cannot hold."""
    kind, names = spec.type, spec.context
    if kind is namedtuple:
        return names, list(names._fields)
    if kind is defaultdict:
        names = names[1]
    elif isinstance(names, (list, tuple)) and names and isinstance(names[0], (list, tuple)):
        names = names[0]  # a dataclass: the fields that hold something, then those that hold None
    if kind in (list, tuple) or not isinstance(names, (list, tuple)) or len(names) != len(spec.children()):
        return kind, None
    odd = [name for name in names if not isinstance(name, str)]
    if odd:
        raise ModelError(f"the model returns a dict with the key {odd[0]!r}; name outputs with strings")
    return kind, list(names)


def _constant(value: Any) -> dict[str, Any]:
    if value is None:
        return {"kind": "none"}
    if isinstance(value, (bool, int, float, str)):
        return {"kind": "constant", "value": value}
    raise ModelError(f"the model returns a {type(value).__name__}; return tensors only")


def _spec(name: str, value: Tensor, symbols: Mapping[Any, str]) -> TensorSpec:
    return TensorSpec(name, tuple(_dimension(size, symbols) for size in value.shape), dtype_name(value))


def _dimension(size: Any, symbols: Mapping[Any, str]) -> int | str:
    if not isinstance(size, torch.SymInt):
        return int(size)
    expression = size.node.expr.xreplace({symbol: sympy.Symbol(name, integer=True) for symbol, name in symbols.items()})
    return int(expression) if expression.is_Integer else str(expression)
