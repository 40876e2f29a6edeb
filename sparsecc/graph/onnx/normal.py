"""What older or looser files spell otherwise or leave out, put as a new file has it. onnxruntime takes all of these."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import numpy_helper

from sparsecc.errors import ModelError
from sparsecc.graph.onnx.valid import graphs, nodes

STANDARD_OPSET = 18  # where a file imports none: what sparsecc writes itself
DEFAULTS_SINCE = 4  # the IR version from which on a weight need not be listed as an input, so that one which is means something
DENSE_LIMIT = 2**31  # bytes of one sparse tensor when dense; onnxruntime makes it so, too
_WEIGHT_PLACES = {"MatMul": (0, 1), "Gemm": (0, 1), "Conv": (1,), "ConvTranspose": (1,), "Gather": (0,)}
_NAMED = 10  # inputs in a note


def normalize(proto: onnx.ModelProto, where: str) -> list[str]:
    """Put the model in the form of a new file, in place. Answers what callers have to know of it, in sentences.

    Raises ModelError for a sparse tensor that is none.
    """
    _spell_domains(proto)
    _import_domains(proto)
    for graph in list(graphs(proto)):
        _make_dense(graph, where)
    for node in nodes(proto):
        _make_constant_dense(node, where)
    return _settle_inputs(proto)


def _spell_domains(proto: onnx.ModelProto) -> None:
    """The standard's domain is "" and also called ai.onnx."""
    for item in (*proto.functions, *nodes(proto)):
        if item.domain == "ai.onnx":
            item.domain = ""
    for imports in (proto.opset_import, *(function.opset_import for function in proto.functions)):
        versions: dict[str, int] = {}
        for opset in imports:
            domain = "" if opset.domain == "ai.onnx" else opset.domain
            versions[domain] = max(opset.version, versions.get(domain, 0))
        del imports[:]
        imports.extend(onnx.helper.make_opsetid(domain, version) for domain, version in versions.items())


def _import_domains(proto: onnx.ModelProto) -> None:
    """Domains that operators are of and that nothing imports, in the version that onnxruntime assumes: its newest."""
    if not proto.opset_import:  # no model at all, which is said elsewhere
        return
    imported = {opset.domain for opset in proto.opset_import}
    for domain in dict.fromkeys(["", *(node.domain for node in nodes(proto))]):
        if domain not in imported and isinstance(domain, str):  # bytes, where it is no text, which is said elsewhere
            proto.opset_import.append(onnx.helper.make_opsetid(domain, _newest(domain)))


def _newest(domain: str) -> int:
    versions = [schema.since_version for schema in onnx.defs.get_all_schemas() if schema.domain == domain] if domain else []
    return max(versions, default=1) if domain else STANDARD_OPSET


def _make_dense(graph: onnx.GraphProto, where: str) -> None:
    """sparse_initializer -> initializer: zeros in a weight are found there."""
    for sparse in graph.sparse_initializer:
        graph.initializer.append(_dense(sparse, sparse.values.name, where))
    del graph.sparse_initializer[:]


def _make_constant_dense(node: onnx.NodeProto, where: str) -> None:
    for attribute in node.attribute:
        if node.op_type == "Constant" and attribute.name == "sparse_value":
            dense = _dense(attribute.sparse_tensor, node.output[0] if node.output else "", where)
            attribute.CopyFrom(onnx.helper.make_attribute("value", dense))


def _dense(sparse: onnx.SparseTensorProto, name: str, where: str) -> onnx.TensorProto:
    """indices: [count] into the flat tensor, or [count, rank]."""
    what = f"{where}: sparse_initializer '{name}'"
    shape = tuple(sparse.dims)
    try:
        values = numpy_helper.to_array(sparse.values)
        indices = numpy_helper.to_array(sparse.indices) if values.size else np.empty(0, np.int64)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{what}: damaged: {error}") from None
    if any(size < 0 for size in shape) or math.prod(shape) * values.itemsize > DENSE_LIMIT:
        raise ModelError(f"{what}: its shape {list(shape)} is none, or too large to be made dense")
    if values.ndim != 1 or indices.shape not in ((len(values),), (len(values), len(shape))):
        raise ModelError(f"{what}: {indices.shape} indices for {values.shape} values of a tensor of shape {list(shape)}")
    limits = math.prod(shape) if indices.ndim == 1 else np.array(shape)
    if indices.size and ((indices < 0).any() or (indices >= limits).any()):
        raise ModelError(f"{what}: an index lies outside its shape {list(shape)}")
    dense = np.zeros(shape, values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    made = numpy_helper.from_array(dense, name)
    made.data_type = sparse.values.data_type
    return made


def _settle_inputs(proto: onnx.ModelProto) -> list[str]:
    """Initializers that are listed among the inputs: before IR 4 all have to be; since then they are defaults, which a caller may
    override, unless the file has its weights among them: then it is an exporter's habit, and all become constants."""
    old = proto.ir_version < DEFAULTS_SINCE
    for graph in graphs(proto):
        listed = {tensor.name for tensor in graph.initializer} & {value.name for value in graph.input}
        if listed and (old or graph is not proto.graph or _holds_weights(graph, listed)):
            _unlist(graph, listed)
            if graph is proto.graph and not old:
                return [_became_constants([tensor for tensor in graph.initializer if tensor.name in listed])]
    proto.ir_version = max(proto.ir_version, DEFAULTS_SINCE)
    return []


def _holds_weights(graph: onnx.GraphProto, listed: set[str]) -> bool:
    large = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 1} & listed
    read = {name for node in graph.node for place, name in enumerate(node.input) if place in _WEIGHT_PLACES.get(node.op_type, ())}
    return bool(large & read)


def _unlist(graph: onnx.GraphProto, names: Iterable[str]) -> None:
    kept = [value for value in graph.input if value.name not in names]
    del graph.input[:]
    graph.input.extend(kept)


def _became_constants(tensors: list[onnx.TensorProto]) -> str:
    """Single numbers first: these are what somebody may have wanted to set."""
    names = [f"'{tensor.name}'" for tensor in sorted(tensors, key=lambda tensor: math.prod(tensor.dims))]
    listed = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    return f"the file lists its weights among the inputs; they are constants now, and callers can no longer set {listed}"
