"""Loops that run a known number of times, written out: Loop(M, true, v, body)  ->  body, body, ... with the values handed on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sparsecc.graph.onnx import kept
from sparsecc.graph.onnx.nodes import Names, constants, copied, replace_nodes, title
from sparsecc.graph.onnx.valid import inner_graphs

NODES = 4096  # that all copies of one body may have


def unroll(proto: onnx.ModelProto) -> bool:
    """In place; whether there was a loop that could be. One that stays carries the reason in its metadata."""
    known, names = _constants(proto.graph), Names(proto.graph)
    nodes: list[onnx.NodeProto] = []
    found = False
    for node in proto.graph.node:
        if node.op_type != "Loop" or node.domain not in ("", "ai.onnx"):
            nodes.append(node)
            continue
        count = _count(node, known)
        if isinstance(count, str):
            kept.note(node, count)
            nodes.append(node)
            continue
        copies = _Copies(node, proto.graph, names)
        nodes.extend(copies.written(count))
        found = True
    if found:
        replace_nodes(proto.graph, nodes)
    return found


def _count(node: onnx.NodeProto, known: Mapping[str, np.ndarray]) -> int | str:
    """How often a loop runs, or why it is not written out."""
    body = next(attribute.g for attribute in node.attribute if attribute.name == "body")
    trips, condition = (*node.input, "", "")[:2]
    if not trips or trips not in known:
        return "data decide how often it runs"
    if condition and not (condition in known and bool(known[condition].reshape(())[()])):
        return "data decide whether it begins"
    if not _goes_on(body, body.output[0].name):
        return "data decide when it ends"
    count = max(0, int(known[trips].reshape(())))
    if count == 0:
        return "it runs not once"
    if count * len(body.node) > NODES:
        return f"written out it has {count} times {len(body.node)} operators, more than {NODES}"
    return count


def _goes_on(body: onnx.GraphProto, name: str) -> bool:
    """Whether a condition is always true: the one that was given, or a constant."""
    inner = {**_constants(body)}
    if name == body.input[1].name:
        return True
    if name in inner:
        return bool(np.all(inner[name]))
    maker = next((node for node in body.node if name in node.output), None)
    return maker is not None and maker.op_type in ("Identity", "Cast") and _goes_on(body, maker.input[0])


def _constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Those of one number."""
    return {name: numpy_helper.to_array(tensor) for name, tensor in constants(graph).items() if np.prod(tensor.dims) <= 1}


@dataclass
class _Copies:
    node: onnx.NodeProto
    graph: onnx.GraphProto
    names: Names

    def written(self, count: int) -> list[onnx.NodeProto]:
        body = next(attribute.g for attribute in self.node.attribute if attribute.name == "body")
        stem = title(self.node)
        shared = {tensor.name: self.names.free(f"{stem}/{tensor.name}") for tensor in body.initializer}
        for tensor in body.initializer:
            self._store(tensor, shared[tensor.name])
        carried = list(self.node.input[2:])
        scanned: list[list[str]] = [[] for _ in body.output[1 + len(carried) :]]
        nodes: list[onnx.NodeProto] = []
        for step in range(count):
            prefix = f"{stem}/{step}/"
            names = shared | self._given(body, prefix, step, carried)
            names |= {name: self.names.free(f"{prefix}{name}") for node in body.node for name in node.output if name}
            nodes.extend(renamed(node, names, prefix) for node in body.node)
            results = [names.get(value.name, value.name) for value in body.output]
            carried = results[1 : 1 + len(carried)]
            for places, value in zip(scanned, results[1 + len(carried) :], strict=True):
                places.append(value)
        return [*nodes, *self._results(stem, carried, scanned)]

    def _given(self, body: onnx.GraphProto, prefix: str, step: int, carried: list[str]) -> dict[str, str]:
        """The names outside of what a body is given."""
        number, going = self.names.free(f"{prefix}iteration"), self.names.free(f"{prefix}condition")
        self._store(numpy_helper.from_array(np.array(step, np.int64)), number)
        self._store(numpy_helper.from_array(np.array(True)), going)
        return {value.name: outer for value, outer in zip(body.input, [number, going, *carried], strict=True)}

    def _results(self, stem: str, carried: list[str], scanned: list[list[str]]) -> Iterator[onnx.NodeProto]:
        for name, value in zip(self.node.output, carried, strict=False):
            if name:
                yield helper.make_node("Identity", [value], [name])
        axes = self.names.free(f"{stem}/axes")
        if scanned:
            self._store(numpy_helper.from_array(np.array([0], np.int64)), axes)
        for name, values in zip(self.node.output[len(carried) :], scanned, strict=False):
            if not name:
                continue
            rows = [self.names.free(f"{name}/row_{step}") for step in range(len(values))]
            for value, row in zip(values, rows, strict=True):
                yield helper.make_node("Unsqueeze", [value, axes], [row])
            yield helper.make_node("Concat", rows, [name], axis=0)

    def _store(self, tensor: onnx.TensorProto, name: str) -> None:
        same = copied(tensor)
        same.name = name
        self.graph.initializer.append(same)


def renamed(node: onnx.NodeProto, names: Mapping[str, str], prefix: str) -> onnx.NodeProto:
    """A copy that reads and gives values by other names, in its bodies, too.  prefix: of its own name."""
    same = copied(node)
    same.name = f"{prefix}{title(node)}"
    for field in (same.input, same.output):
        field[:] = [names.get(name, name) for name in field]
    for graph in inner_graphs(same):
        _rename_captured(graph, names, prefix)
    return same


def _rename_captured(graph: onnx.GraphProto, names: Mapping[str, str], prefix: str) -> None:
    """Inside a body in a body: what it reads from outside, unless it has a value of that name itself."""
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {name for node in graph.node for name in node.output}
    outer = {name: new for name, new in names.items() if name not in own}
    replace_nodes(graph, [renamed(node, outer, prefix) for node in graph.node])
    for value in graph.output:
        value.name = outer.get(value.name, value.name)
