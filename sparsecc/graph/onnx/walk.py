"""An ONNX graph evaluated on several inputs side by side, piece by piece, with a stop before each layer that somebody wants to see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from sparsecc.errors import InputError, ModelError
from sparsecc.graph.onnx.divide import bodies, divides, guard_divisions
from sparsecc.graph.onnx.io import first_cause
from sparsecc.graph.onnx.run import FAILURES, options

Arrays = dict[str, np.ndarray]  # by the name of the value


class Walk:
    """The evaluation so far. A piece of the model becomes a session of its own when it is reached: a weight that was set before
    counts there. What nothing reads any more is let go of."""

    def __init__(self, model: ir.Model, feeds: Sequence[Mapping[str, np.ndarray]], where: str) -> None:
        self._model, self._where = model, where
        self._live: list[Arrays] = [dict(given) for given in feeds]
        self._done: set[ir.Node] = set()

    def reach(self, values: Sequence[ir.Value]) -> list[list[np.ndarray]]:
        """For each input of the model, the values; all nodes run that they need, and those before them."""
        nodes = self._until({value.producer() for value in values})
        if nodes:
            self._run(nodes, values)
        return [[self._array(value, live) for value in values] for live in self._live]

    def _until(self, wanted: set[ir.Node | None]) -> list[ir.Node]:
        """The nodes that have not run up to the last of those wanted."""
        open_nodes = [node for node in self._model.graph if node not in self._done]
        last = max((index for index, node in enumerate(open_nodes) if node in wanted), default=-1)
        return open_nodes[: last + 1]

    def _run(self, nodes: Sequence[ir.Node], values: Sequence[ir.Value]) -> None:
        self._done.update(nodes)
        made = {value for node in nodes for value in node.outputs}
        read = {value for node in nodes for value in read_by(node)} - made
        fed = [value.name or "" for value in read if value.const_value is None]
        later = {value for node in self._model.graph if node not in self._done for value in read_by(node)} | {*values}
        wanted = [value.name or "" for node in nodes for value in node.outputs if value in later]
        piece = self._piece(nodes, [value for value in read if value.const_value is not None], fed, wanted)
        kept = {value.name for value in later}
        for live in self._live:
            try:
                found = cast("list[np.ndarray]", piece.run(wanted, {name: live[name] for name in fed}))
            except FAILURES as error:
                raise InputError(f"{self._where}: onnxruntime fails on these inputs: {first_cause(error)}") from None
            live.update(zip(wanted, found, strict=True))
            for name in [name for name in live if name not in kept]:
                del live[name]

    def _piece(
        self, nodes: Sequence[ir.Node], constants: Sequence[ir.Value], fed: Sequence[str], wanted: Sequence[str]
    ) -> onnxruntime.InferenceSession:
        graph = onnx.helper.make_graph(
            [ir.serde.serialize_node(node) for node in nodes],
            "piece",
            [_declared(name, self._live[0][name]) for name in fed],
            [onnx.helper.make_empty_tensor_value_info(name) for name in wanted],
            [_tensor(value) for value in constants],
        )
        opsets = [onnx.helper.make_opsetid(domain, number) for domain, number in self._model.opset_imports.items()]
        functions = [ir.serde.serialize_function(function) for function in self._model.functions.values()]
        made = onnx.helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=self._model.ir_version)
        if any(divides(inner) for node in nodes for inner in _with_bodies(node)):
            made = _guarded(made, nodes)
        try:
            exact = options(node.op_type for node in self._model.graph.all_nodes())
            return onnxruntime.InferenceSession(made.SerializeToString(), exact, providers=["CPUExecutionProvider"])
        except FAILURES as error:
            raise ModelError(f"{self._where}: onnxruntime cannot run this model: {first_cause(error)}") from None

    def _array(self, value: ir.Value, live: Arrays) -> np.ndarray:
        return live[value.name or ""] if value.const_value is None else value.const_value.numpy()


def read_by(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, also from inside the graphs of an If or Loop."""
    yield from (value for value in node.inputs if value is not None)
    for graph in bodies(node):
        own = {value for inner in graph for value in inner.outputs} | {*graph.inputs}
        yield from (value for inner in graph for value in read_by(inner) if value not in own)


def _with_bodies(node: ir.Node) -> Iterator[ir.Node]:
    yield node
    yield from (inner for graph in bodies(node) for own in graph for inner in _with_bodies(own))


def _guarded(piece: onnx.ModelProto, nodes: Sequence[ir.Node]) -> onnx.ModelProto:
    """nodes: of the whole model, which knows types that a piece of it does not."""
    inner = {value.name for value in (*piece.graph.input, *piece.graph.output, *piece.graph.initializer)}
    values = [value for node in nodes for value in node.outputs if value.dtype is not None and value.name not in inner]
    piece.graph.value_info.extend(ir.serde.serialize_value(value) for value in values)
    model = ir.serde.deserialize_model(piece)
    guard_divisions(model.graph)
    return ir.serde.serialize_model(model)


def _declared(name: str, value: Any) -> onnx.ValueInfoProto:
    """What a piece is fed: a tensor, or a sequence of some."""
    if isinstance(value, list):
        element = onnx.helper.np_dtype_to_tensor_dtype(value[0].dtype) if value else onnx.TensorProto.FLOAT
        return onnx.helper.make_tensor_sequence_value_info(name, element, None)
    return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), None)


def _tensor(value: ir.Value) -> onnx.TensorProto:
    assert value.const_value is not None
    proto = ir.serde.serialize_tensor(value.const_value)
    proto.name = value.name or ""
    return proto
