"""What is wrong with an ONNX model, said before anything is made of it: operators that nobody knows, values that nothing computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx

from sparsecc.errors import ModelError
from sparsecc.ops.base import ONNX_DOMAIN

RUNTIME_DOMAINS = ("com.microsoft", "com.microsoft.nchwc")  # operators outside the standard that a stock onnxruntime has
# Operators that it has in the standard's domain though the standard has none, or has them only from a later opset on.
RUNTIME_OPERATORS = ("LayerNormalization", "SimplifiedLayerNormalization")
MAX_RANK = 64  # numpy's


def check(proto: onnx.ModelProto, where: str) -> None:
    """Raises ModelError for a model that says nothing, is from a newer ONNX, or has operators that nobody knows."""
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError(f"{where}: not an ONNX model: it has no graph")
    if not proto.graph.node or not proto.graph.output:
        raise ModelError(f"{where}: the model has no {'outputs' if proto.graph.node else 'operators'}")
    versions = {opset.domain: opset.version for opset in proto.opset_import}
    newest = onnx.defs.onnx_opset_version()
    if versions.get("", 0) > newest:
        raise ModelError(f"{where}: opset {versions['']} is newer than {newest}, the newest that onnx {onnx.__version__} knows")
    _check_operators(proto, versions, where)
    _check_values(proto.graph, frozenset(), where)
    for function in proto.functions:
        _check_nodes(function.node, frozenset(function.input), function.output, where)


def _check_operators(proto: onnx.ModelProto, versions: dict[str, int], where: str) -> None:
    own = {(function.domain, function.name) for function in proto.functions}
    unknown: dict[str, str] = {}
    for node in nodes(proto):
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.STRING and not _is_text(attribute.s):
                raise ModelError(f"{where}: damaged: attribute '{attribute.name}' of {node.op_type} '{_called(node)}' is no text")
        if node.op_type == "Constant" and node.domain == "" and len(node.attribute) != 1:
            raise ModelError(f"{where}: damaged: Constant '{_called(node)}' states {len(node.attribute)} values, not 1")
        runtime = node.domain in RUNTIME_DOMAINS or (node.domain == "" and node.op_type in RUNTIME_OPERATORS)
        if runtime or node.domain == ONNX_DOMAIN or (node.domain, node.op_type) in own:
            continue
        if not has_schema(node.op_type, node.domain, versions.get(node.domain, 0)):
            unknown.setdefault(_printable(f"{node.domain}::{node.op_type}" if node.domain else node.op_type), _called(node))
    if unknown:
        listed = ", ".join(f"{op} (at '{node}')" for op, node in unknown.items())
        raise ModelError(f"{where}: operators that opset {versions.get('', 0)} does not have: {listed}")


def check_tensors(proto: onnx.ModelProto, where: str) -> None:
    """Raises ModelError for a tensor of a type or shape that there is not."""
    for tensor in (*proto.graph.initializer, *inner_tensors(proto)):
        _check_tensor(tensor, where)


def _check_tensor(tensor: onnx.TensorProto, where: str) -> None:
    what = f"{where}: damaged: tensor '{_printable(tensor.name)}'"
    if tensor.data_type not in onnx.TensorProto.DataType.values() or tensor.data_type == onnx.TensorProto.UNDEFINED:
        raise ModelError(f"{what} has the element type {tensor.data_type}, which ONNX does not have")
    if len(tensor.dims) > MAX_RANK:
        raise ModelError(f"{what} has {len(tensor.dims)} dimensions, {MAX_RANK} are the most")
    if any(size < 0 for size in tensor.dims):
        raise ModelError(f"{what} has a negative size: {list(tensor.dims)}")


def _check_values(graph: onnx.GraphProto, outer: frozenset[str], where: str) -> None:
    """Raises ModelError when an operator, or the model's result, is made from a value that nothing computes."""
    inputs = [value.name for value in graph.input] + [tensor.name for tensor in graph.initializer]
    _check_nodes(graph.node, outer.union(inputs), [value.name for value in graph.output], where)


def _check_nodes(given_nodes: Sequence[onnx.NodeProto], given: frozenset[str], results: Sequence[str], where: str) -> None:
    values = given.union(name for node in given_nodes for name in node.output)
    for node in given_nodes:
        for name in node.input:
            if name and name not in values:
                reader = f"{_printable(node.op_type)} '{_called(node)}'"
                raise ModelError(f"{where}: not a valid model: {reader} reads '{_printable(name)}', which nothing computes")
        for inner in inner_graphs(node):
            _check_values(inner, values, where)
    for name in results:
        if name not in values:
            raise ModelError(f"{where}: not a valid model: nothing computes its output '{_printable(name)}'")


def _called(node: onnx.NodeProto) -> str:
    return _printable(node.name or next(iter(node.output), "without name and output"))


def _printable(name: str | bytes) -> str:
    """A name as it is, unless damage made it something that would break a line."""
    return name if isinstance(name, str) and name.isprintable() else repr(name)


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def has_schema(op_type: str, domain: str, version: int) -> bool:
    try:
        return not onnx.defs.get_schema(op_type, version, domain).deprecated
    except (onnx.defs.SchemaError, TypeError):  # TypeError: a name that is no text
        return False


def nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node: of the graph, of graphs inside nodes, of functions."""
    yield from walk(proto.graph.node)
    for function in proto.functions:
        yield from walk(function.node)


def walk(given: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in given:
        yield node
        for graph in inner_graphs(node):
            yield from walk(graph.node)


def inner_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The main graph, and every graph inside a node."""
    yield proto.graph
    for node in nodes(proto):
        yield from inner_graphs(node)


def inner_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Tensors that are no initializers of the main graph: attributes, initializers of graphs inside nodes, parts of sparse tensors."""
    for node in nodes(proto):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (*([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []), *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
        for graph in inner_graphs(node):
            yield from graph.initializer
    for graph in graphs(proto):
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
