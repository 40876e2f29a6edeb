"""What every rewriting of a proto needs: other nodes in the place of a graph's, names that nothing has, constants by name."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Iterator
from typing import TypeVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sparsecc.graph.onnx.valid import inner_graphs

_SMALL = 4096  # bytes of a constant that shapes may be computed from
M = TypeVar("M", onnx.ModelProto, onnx.NodeProto, onnx.TensorProto)


def copied(message: M) -> M:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """nodes: may be the graph's own, which die with the list that they are in."""
    kept = [copied(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def constants(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    """Initializers that callers cannot override, and results of Constant nodes. Tensors are the graph's own, where it has tensors."""
    given = {value.name for value in graph.input}
    found = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in given}
    for node in graph.node:
        tensor = _stated(node) if node.op_type == "Constant" and node.output else None
        if tensor is not None:
            found[node.output[0]] = tensor
    return found


def _stated(node: onnx.NodeProto) -> TensorProto | None:
    """The tensor that a Constant states; None for text, sparse ones, and damaged nodes that state nothing."""
    for attribute in node.attribute:
        if attribute.name == "value" and attribute.HasField("t"):
            return attribute.t
        if attribute.name in ("value_int", "value_ints"):
            return numpy_helper.from_array(np.array(attribute.i if attribute.name == "value_int" else attribute.ints, np.int64))
        if attribute.name in ("value_float", "value_floats"):
            return numpy_helper.from_array(np.array(attribute.f if attribute.name == "value_float" else attribute.floats, np.float32))
    return None


def without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Large initializers as inputs: shape inference copies everything that it is given, and takes no more than 2 GB."""
    light = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions)
    light.graph.name = proto.graph.name or "graph"
    for name in ("node", "input", "output", "value_info"):
        getattr(light.graph, name).extend(getattr(proto.graph, name))
    given = {value.name for value in proto.graph.input}
    for tensor in proto.graph.initializer:
        if tensor.ByteSize() <= _SMALL:
            light.graph.initializer.append(tensor)
        elif tensor.name not in given:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def unused(name: str, taken: Container[str | None]) -> str:
    """`name`, or `name_1`, `name_2`, ...: the first that is not taken."""
    return next(free for free in itertools.chain([name], (f"{name}_{k}" for k in itertools.count(1))) if free not in taken)


class Names:
    """Of the values of a graph, also inside bodies; gives out others."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._taken = set(_names(graph))

    def free(self, name: str) -> str:
        """`name`, or `name_1`, `name_2`, ...: taken from now on."""
        found = unused(name, self._taken)
        self._taken.add(found)
        return found


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (value.name for values in (graph.input, graph.output, graph.initializer) for value in values)
    for node in graph.node:
        yield from (*node.input, *node.output)
        for inner in inner_graphs(node):
            yield from _names(inner)


def first_result(node: onnx.NodeProto) -> str:
    """By which a node is found again in another copy of its model; "" for one of which nobody reads anything."""
    return next((name for name in node.output if name), "")


def title(node: onnx.NodeProto) -> str:
    """What people are told that a node is called."""
    return node.name or first_result(node) or node.op_type
