"""A torch graph as JSON, and back: what an artifact for a GPU holds beside weights and kernels. No pickle, and of no one version of torch.

A node is `{"op": "call", "target": "aten.add.Tensor", "args": [...], "kwargs": {...}}`, `{"op": "input"}`, `{"op": "tensor", "target":
"layers.0.weight"}` or `{"op": "output", "args": [...]}`, each with its `name`. An argument that is no number, text, list or null is an
object of one entry: `{"node": name}`, `{"dtype": "bfloat16"}`, `{"device": "own"}`, `{"layout": "strided"}`, `{"memory_format": ..}`,
`{"float": "inf"}`.
"""

from __future__ import annotations

import importlib
import json
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from sparsecc.errors import ArtifactError, UserError

_OPERATORS = "getitem add sub mul floordiv truediv mod neg pow eq ne lt le gt ge"
_SYMBOLS = "sym_int sym_float sym_max sym_min sym_not sym_ite"
_FUNCTIONS = {  # arithmetic on sizes
    f"{module.__name__.removeprefix('_')}.{name}": getattr(module, name)
    for module, names in ((operator, _OPERATORS), (torch, _SYMBOLS), (math, "ceil floor trunc"))
    for name in names.split()
}
_NAMES = {function: name for name, function in _FUNCTIONS.items()}
_KINDS: dict[str, type] = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}


def to_data(module: GraphModule, operators: Mapping[Any, Any] | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The graph as JSON, and the tensors that it reads by name. operators: what stands for functions that it calls. Raises UserError for an
    operator that cannot be written."""
    info = module.graph._codegen.pytree_info  # type: ignore[attr-defined]
    tensors: dict[str, Tensor] = {}
    home = next((tensor.device.type for tensor in (*module.parameters(), *module.buffers())), "cpu")  # where its weights are
    every = [node for node in module.graph.nodes if node.op != "call_module"]  # what checks shapes
    nodes = [_node(module, node, tensors, home, operators or {}) for node in every]
    try:
        specs = {name: json.loads(pytree.treespec_dumps(getattr(info, name))) for name in ("in_spec", "out_spec")}
    except NotImplementedError as error:
        raise UserError(f"what the model takes or returns cannot be written into a file: {error}") from error
    return {"nodes": nodes, "arguments": list(info.orig_args), **specs}, tensors


def from_data(data: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device) -> GraphModule:
    """Inverse of `to_data`, on a device. Raises ArtifactError for an operator that this torch has not, LookupError, TypeError, ValueError
    or AttributeError for what is no such graph."""
    root, graph = nn.Module(), Graph()
    for name, tensor in tensors.items():
        _put(root, name, tensor)
    made: dict[str, Node] = {}
    for entry in data["nodes"]:
        made[entry["name"]] = _made(graph, entry, made, device)
    in_spec, out_spec = (_spec(data[name]) for name in ("in_spec", "out_spec"))
    graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo(list(data["arguments"]), in_spec, out_spec)))
    graph.lint()
    return GraphModule(root, graph)


def _node(module: GraphModule, node: Node, tensors: dict[str, Tensor], home: str, operators: Mapping[Any, Any]) -> dict[str, Any]:
    if node.op == "placeholder":
        return {"name": node.name, "op": "input"}
    if node.op == "get_attr":
        name = str(node.target)
        tensors[name] = _tensor(module, name)
        return {"name": node.name, "op": "tensor", "target": name}
    if node.op == "output":
        return {"name": node.name, "op": "output", "args": _written(list(node.args[0]), home)}  # type: ignore[arg-type]
    args, kwargs = _written(list(node.args), home), {name: _written(value, home) for name, value in node.kwargs.items()}
    return {"name": node.name, "op": "call", "target": _target(node, operators), "args": args, "kwargs": kwargs}


def _target(node: Node, operators: Mapping[Any, Any]) -> str:
    target: Any = operators.get(node.target, node.target)
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    if node.op != "call_function" or target not in _NAMES:
        raise UserError(f"the model calls {getattr(target, '__name__', target)!r}, which cannot be written into a file")
    return _NAMES[target]


def _written(value: Any, home: str) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, Node):
        return {"node": value.name}
    if isinstance(value, (list, tuple)):
        return [_written(item, home) for item in value]
    if isinstance(value, torch.device):
        return {"device": "own" if value.type == home else value.type}
    for kind, cls in _KINDS.items():
        if isinstance(value, cls):
            return {kind: str(value).removeprefix("torch.")}
    raise UserError(f"the model has a {type(value).__name__} among an operator's arguments, which cannot be written into a file")


def _read(value: Any, made: Mapping[str, Node], device: torch.device) -> Any:
    if isinstance(value, list):
        return [_read(item, made, device) for item in value]
    if not isinstance(value, dict):
        return value
    [(kind, text)] = value.items()
    if kind == "node":
        return made[text]
    if kind == "device":
        return device if text == "own" else torch.device(text)
    if kind == "float":
        return float(text)
    found = getattr(torch, text)
    if not isinstance(found, _KINDS[kind]):
        raise ValueError(f"{text!r} is no {kind}")
    return found


def _made(graph: Graph, entry: Mapping[str, Any], made: Mapping[str, Node], device: torch.device) -> Node:
    name = entry["name"]
    match entry["op"]:
        case "input":
            return graph.create_node("placeholder", name, name=name)
        case "tensor":
            return graph.create_node("get_attr", entry["target"], name=name)
        case "output":
            return graph.create_node("output", "output", (tuple(_read(entry["args"], made, device)),), name=name)
        case "call":
            args = tuple(_read(entry["args"], made, device))
            kwargs = {key: _read(value, made, device) for key, value in entry["kwargs"].items()}
            return graph.create_node("call_function", _function(entry["target"]), args, kwargs, name=name)
    raise ValueError(f"no node of kind {entry['op']!r}")


def _function(name: str) -> Any:
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    found: Any = torch.ops
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        found = None
    if not isinstance(found, torch._ops.OpOverload):
        raise ArtifactError(f"the model calls {name!r}, which torch {torch.__version__} has not")
    return found


def _spec(data: Sequence[Any]) -> pytree.TreeSpec:
    """Classes in it register themselves as their modules are imported."""
    for name in _types(data):
        module = name.rpartition(".")[0]
        if module not in ("", "builtins", "collections"):
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise ArtifactError(f"the model takes or returns a {name}, whose package is not installed: {error}") from None
    return pytree.treespec_loads(json.dumps(data))


def _types(data: Any) -> list[str]:
    if isinstance(data, list):
        return [name for item in data for name in _types(item)]
    if not isinstance(data, dict):
        return []
    own = [data["type"]] if isinstance(data.get("type"), str) else []
    return [*own, *(name for child in data.get("children_spec", ()) for name in _types(child))]


def _tensor(module: nn.Module, name: str) -> Tensor:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _put(root: nn.Module, name: str, tensor: Tensor) -> None:
    *path, leaf = name.split(".")
    module: Any = root
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module._modules[part]
    module.register_buffer(leaf, tensor)
