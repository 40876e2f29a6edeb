"""Local functions of a model, put in the places that call them. A few kilobytes of functions that call each other can mean billions of
operators, so that it is counted first what they come to."""

from __future__ import annotations

import graphlib
from collections.abc import Iterable

import onnx
import onnx.inliner

from sparsecc.errors import ModelError
from sparsecc.graph.onnx.valid import walk

MOST_NODES = 50_000  # of what functions come to; the exporters' largest files have a fifth of that in all
MOST_BYTES = 2**28  # more than the file has, as by a function that holds a table and is called a thousand times

_Name = tuple[str, str, str]
_Size = tuple[int, int]  # operators, bytes


def inlined(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """The model without functions. Raises ModelError for functions that call themselves or come to too much."""
    if not proto.functions:
        return proto
    _check_size(proto, where)
    try:
        return onnx.inliner.inline_local_functions(proto)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{where}: its local functions cannot be inlined: {' '.join(str(error).split())[:300]}") from None


def _check_size(proto: onnx.ModelProto, where: str) -> None:
    bodies = {(function.domain, function.name, function.overload): list(walk(function.node)) for function in proto.functions}
    calls = {name: [called for node in body if (called := _called(node)) in bodies] for name, body in bodies.items()}
    try:
        order = list(graphlib.TopologicalSorter(calls).static_order())
    except graphlib.CycleError as error:
        raise ModelError(f"{where}: function '{_written(error.args[1][0])}' calls itself, directly or through others") from None
    sizes: dict[_Name, _Size] = {}
    for name in order:
        sizes[name] = _size(bodies[name], sizes)
    nodes, nbytes = _size(walk(proto.graph.node), sizes)
    if nodes > MOST_NODES or nbytes > MOST_BYTES:
        raise ModelError(
            f"{where}: its functions come to {nodes:,} operators and {nbytes / 1e6:,.0f} MB when they are put where they are called; "
            f"{MOST_NODES:,} and {MOST_BYTES / 1e6:,.0f} MB are the most"
        )


def _size(nodes: Iterable[onnx.NodeProto], functions: dict[_Name, _Size]) -> _Size:
    """What calls in these nodes come to; in a function, with the nodes themselves."""
    count = nbytes = 0
    for node in nodes:
        inner = functions.get(_called(node), (1, node.ByteSize()))
        count, nbytes = count + inner[0], nbytes + inner[1]
    return count, nbytes


def _called(node: onnx.NodeProto) -> _Name:
    return node.domain, node.op_type, node.overload


def _written(name: _Name) -> str:
    return f"{name[0]}::{name[1]}" if name[0] else name[1]
