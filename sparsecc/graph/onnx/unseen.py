"""The weights of an ONNX model that belong to no site, by what reads them: of the bodies of If and Loop, too."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from sparsecc.graph.onnx import names as onnx_names
from sparsecc.graph.onnx import sparse
from sparsecc.graph.onnx.optional import require
from sparsecc.graph.onnx.sites import FLOATS, WeightNodes
from sparsecc.graph.sites import Site, Unseen, is_matrix, unique
from sparsecc.graph.unseen import narrow, reason_of

_PASSED_ON = ("Transpose", "Reshape", "Unsqueeze", "Squeeze", "Cast", "Identity", "DequantizeLinear", "Expand", "Slice", "Split", "Gather")
_TABLES = ("Gather", "GatherElements", "GatherND")
_CONVOLUTIONS = ("Conv", "ConvTranspose", "FusedConv", "QLinearConv", "ConvInteger")
_NARROW = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4)
# What a table of eight bits is multiplied by; elsewhere such numbers are data.
_MULTIPLIES = ("MatMul", "Gemm", "MatMulInteger", "QLinearMatMul", "MatMulNBits", "DynamicQuantizeMatMul", "QGemm", *_CONVOLUTIONS)
_RECURRENT = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")


class _Reader(NamedTuple):
    """A node with what it reads a weight through.  inside: the If, Loop or Scan in whose body it stands."""

    node: ir.Node
    through: tuple[str, ...]
    inside: ir.Node | None


def find(model: ir.Model, sites: Sequence[Site]) -> list[Unseen]:
    """In the order of the initializers; those of bodies come last."""
    seen = {value for site in sites for value in _of_site(site)}
    graphs = dict(_graphs(model.graph, None))
    names: dict[str, None] = dict.fromkeys(site.name for site in sites)
    found = []
    for value, tensor in (stored for graph in graphs for stored in _stored(graph)):
        if value in seen or not is_matrix(tensor.shape.numpy()) or tensor.dtype not in (*FLOATS, *_NARROW):
            continue
        reader = next(_readers(value, graphs), None)
        if reader is not None and (tensor.dtype in FLOATS or reader.node.op_type in (*_MULTIPLIES, *_RECURRENT)):
            found.append(_unseen(unique(_name(value, reader), names), tensor, reader))
    return found


def _of_site(site: Site) -> Sequence[ir.Value | None]:
    layer = site.handle
    if not isinstance(layer, WeightNodes):
        return ()
    return layer.node.inputs[1:] if sparse.is_sparse(layer.node) else (layer.weight,)


def _graphs(graph: ir.Graph, inside: ir.Node | None) -> Iterator[tuple[ir.Graph, ir.Node | None]]:
    """A graph and all bodies in it, with the node of the main graph that each belongs to."""
    yield graph, inside
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
                bodies = [attribute.as_graph()] if attribute.type is ir.AttributeType.GRAPH else attribute.as_graphs()
                yield from (pair for body in bodies for pair in _graphs(body, inside or node))


def _stored(graph: ir.Graph) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """Initializers, and constants, which bodies have instead."""
    held = [*graph.initializers.values(), *(node.outputs[0] for node in graph if node.op_type == "Constant")]
    for value in held:
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is not None and tensor.dtype is not ir.DataType.STRING:
            yield value, tensor


def _readers(value: ir.Value, graphs: Mapping[ir.Graph, ir.Node | None], through: tuple[str, ...] = ()) -> Iterator[_Reader]:
    for node, place in value.uses():
        looked_up = node.op_type in _TABLES and place == 0 and not _is_constant(node.inputs[1])
        if (node.op_type in _PASSED_ON and place == 0 and not looked_up) or _scales(node, place):
            yield from _readers(node.outputs[0], graphs, (*through, node.op_type))
        else:
            yield _Reader(node, through, graphs.get(require(node.graph)))


def _scales(node: ir.Node, place: int) -> bool:
    """Whether a node multiplies by a constant, or takes one off: integers made floats again, as some exporters spell it."""
    return node.op_type in ("Mul", "Sub") and place < 2 and _is_constant(node.inputs[1 - place])


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and ir.convenience.get_const_tensor(value) is not None


def _name(value: ir.Value, reader: _Reader) -> str:
    """The layer's, where it has one; the tensor's where that says more, as for tables and what is added."""
    if reader.inside is not None:
        return reader.node.name or value.name or reader.inside.name or ""
    layer = reader.node.op_type in (*_MULTIPLIES, *_RECURRENT, "Einsum")
    name = onnx_names.given(reader.node) if layer else value.name
    return (name or reader.node.op_type).removesuffix(".weight")


def _unseen(name: str, tensor: ir.TensorProtocol, reader: _Reader) -> Unseen:
    kind, shape = _kind(reader.node, len(tensor.shape)), tuple(tensor.shape.numpy())
    zeros = 1 - int(np.count_nonzero(tensor.numpy())) / max(1, math.prod(shape))
    return Unseen(
        name=name,
        kind=kind,
        shape=shape,
        dtype=tensor.dtype.numpy().name,
        nbytes=tensor.nbytes,
        sparsity=zeros,
        reason=_reason(kind, tensor, reader),
    )


def _kind(node: ir.Node, rank: int) -> str:
    """Conv1d for a Conv of that rank; ONNX's own word for all else that is no table."""
    if node.op_type in _TABLES:
        return "Embedding"
    return f"{node.op_type}{rank - 2}d" if node.op_type in _CONVOLUTIONS else node.op_type


def _reason(kind: str, tensor: ir.TensorProtocol, reader: _Reader) -> str:
    if reader.inside is not None:
        owner = reader.inside
        return f"inside the body of the {owner.op_type} '{owner.name or owner.outputs[0].name}', which no pass enters"
    if tensor.dtype in _NARROW:
        return narrow(tensor.dtype.numpy().name)
    computed = next((op_type for op_type in reader.through if op_type in ("Cast", "DequantizeLinear")), None)
    if computed is not None:
        return f"behind a {computed}"
    return reason_of(_FAMILIAR.get(kind, kind) if len(tensor.shape) < 3 or kind != "MatMul" else "BatchedMatMul")


_FAMILIAR = {"MatMul": "Linear", "Gemm": "Linear", "FusedMatMul": "Linear", "FusedGemm": "Linear"}
