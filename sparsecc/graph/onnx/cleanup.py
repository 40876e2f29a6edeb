"""Making a model that came from anywhere simple enough to find sites in: current opset, no local functions, constants folded.

The tools for that (onnx's inliner and version converter, onnxslim) work on protos, copy every weight and know nothing of
`ai.sparsecc`. So they get a skeleton: weights that nobody folds become inputs, a sparse node becomes the dense node of the
same shape with a stand-in for its weight, and both are put back afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from sparsecc.errors import ModelError
from sparsecc.graph.onnx import contrib as contrib
from sparsecc.graph.onnx import control, hold, linear, names, opset, runtime_only
from sparsecc.graph.onnx import sparse as onnx_sparse
from sparsecc.graph.onnx.fold import fold_norms, fold_scales, lift_weights, unflatten_softmaxes
from sparsecc.graph.onnx.functions import inlined
from sparsecc.graph.onnx.io import first_cause
from sparsecc.graph.onnx.optional import require
from sparsecc.graph.onnx.slim import slimmed
from sparsecc.ops.base import ONNX_DOMAIN
from sparsecc.ops.block_attention.onnx import Kind, is_block_attention

WEIGHT_BYTES = 4096  # smaller constants are never worth keeping from the tools
_STAND_IN = "ai.sparsecc.weight_of."
_DTYPES = {"float32": ir.DataType.FLOAT, "float64": ir.DataType.DOUBLE, "float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}


@dataclass
class _Skeleton:
    """model: what the tools see.  weights: detached initializers by name.  sparse: the nodes that stand-ins stand for, by stand-in."""

    model: ir.Model
    weights: dict[str, ir.TensorProtocol] = field(default_factory=dict)
    sparse: dict[str, ir.Node] = field(default_factory=dict)


def clean(
    model: ir.Model,
    where: str,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    *,
    standard: bool = False,
    growth: int = hold.GROWTH,
) -> ir.Model:
    """A simpler model that computes the same; with these input shapes fixed, if given, and everything that follows from them folded.

    standard: without operators of com.microsoft, as far as `contrib` knows them, without loops that run a known number of times and
    without branches that data decide; else without those operators that hide a layer.  growth: bytes that folding may add.

    The given model is left alone and shares its weights with the result. Raises ModelError when the model does not check or is too old to
    be converted.
    """
    named = names.hints(model)
    skeleton = _take_apart(model)
    if input_shapes:
        _fix_shapes(skeleton.model, input_shapes)
    result = _simplified(skeleton.model, where, standard, growth, named)
    _put_together(result, skeleton, model)
    lift_weights(result)
    linear.spell(result)
    unflatten_softmaxes(result)
    fold_norms(result)
    fold_scales(result)
    common.RemoveUnusedNodesPass()(result)
    names.store(result, named)
    onnx_sparse.complete(result)
    return result


def _simplified(skeleton: ir.Model, where: str, standard: bool, growth: int, named: dict[str, str]) -> ir.Model:
    """named: what layers are called, to which is added what those are called that were hidden."""
    try:
        proto = ir.serde.serialize_model(skeleton)
    except ir.serde.SerdeError as error:
        raise ModelError(f"{where}: damaged: {first_cause(error)}") from None
    runtime_only.hide(proto)
    try:
        proto = opset.upgraded(inlined(proto, where), where)
        if contrib.take_apart(proto, everything=standard):
            named |= names.hints(ir.serde.deserialize_model(proto))
        runtime_only.stand_in(proto)
        opset.check(proto)
        proto = slimmed(proto, where, growth)
        proto = control.without(proto, where, growth) if standard else proto
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"{where}: not a valid model: {first_cause(error)}") from None
    runtime_only.restore(proto)
    result = ir.serde.deserialize_model(proto)
    if any(attribute.type is ir.AttributeType.GRAPH for node in result.graph for attribute in node.attributes.values()):
        result.graph.sort()  # onnxslim does not see what a body in a body reads from outside
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(result)
    return result


def _take_apart(model: ir.Model) -> _Skeleton:
    skeleton = _Skeleton(model.clone())
    graph = skeleton.model.graph
    for identifier in [key for key in skeleton.model.functions if key[0] == ONNX_DOMAIN]:
        del skeleton.model.functions[identifier]
    originals = [node for node in model.graph if node.domain == ONNX_DOMAIN]
    for node, original in zip([node for node in graph if node.domain == ONNX_DOMAIN], originals, strict=True):
        (_attention_stand_in if is_block_attention(node) else _stand_in)(skeleton, node, original)
    for name, value in list(graph.initializers.items()):
        if _only_a_weight(value):
            weight = skeleton.weights[name] = require(value.const_value)
            value.shape, value.dtype = ir.Shape(weight.shape.numpy()), weight.dtype
            del graph.initializers[name]
            value.const_value = None
            graph.inputs.append(value)
    return skeleton


def _stand_in(skeleton: _Skeleton, node: ir.Node, original: ir.Node) -> None:
    """SparseLinear(x, ...) and its kin → MatMul(x, W), SparseConv2d(x, ...) → Conv(x, W), with W an input of the dense weight's shape."""
    graph = skeleton.model.graph
    stored = onnx_sparse.weight(original)
    name = f"{_STAND_IN}{original.outputs[0].name}"
    if onnx_sparse.is_conv(node):
        kernel = node.attributes["kernel_shape"].as_ints()
        shape, op_type = (stored.rows, stored.cols // (kernel[0] * kernel[1]), *kernel), "Conv"
        attributes = [node.attributes[key] for key in ("kernel_shape", "strides", "pads", "dilations")]
    else:
        shape, op_type, attributes = (stored.cols, stored.rows), "MatMul", []
    if stored.dtype not in _DTYPES:
        raise ModelError(f"layer '{names.given(original)}': its weight is {stored.dtype}, in which no layer computes")
    weight = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(_DTYPES[stored.dtype]))
    graph.inputs.append(weight)
    dense = ir.node(op_type, [node.inputs[0], weight], num_outputs=1, name=node.name)
    dense.attributes.update({attribute.name: attribute for attribute in attributes})
    _swap(graph, node, dense)
    skeleton.sparse[name] = original


def _attention_stand_in(skeleton: _Skeleton, node: ir.Node, original: ir.Node) -> None:
    """BlockAttention(q, k, v, ...) → Sum(q, k, v, mark), which has the output's shape, with a number as mark and input. Where heads of q
    share those of k and v, or there is a mask, that is an Einsum of all that flows in."""
    graph, kind = skeleton.model.graph, Kind.of(node.op_type)
    onnx_sparse.block_map(original)  # raises for a damaged one
    flowing = node.inputs[: 4 if kind.masked else 3]
    q = flowing[0]
    mark = ir.Value(name=f"{_STAND_IN}{original.outputs[0].name}", shape=ir.Shape([1]), type=q.type if q is not None else None)
    mark.type = mark.type or ir.TensorType(ir.DataType.FLOAT)
    graph.inputs.append(mark)
    op_type, attributes = "Sum", {}
    if kind.grouped or kind.masked:
        letters = "wxyz"[: len(original.inputs[3].shape or ())] if kind.masked and original.inputs[3] is not None else ""
        terms = ["bhtd", "bgsd", "bgsd", *([letters] if kind.masked else []), "o"]
        op_type, attributes = "Einsum", {"equation": f"{','.join(terms)}->bhtd"}
    _swap(graph, node, ir.node(op_type, [*flowing, mark], attributes, num_outputs=1, name=node.name))
    skeleton.sparse[mark.name or ""] = original


def _swap(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    """Put a node with one output in the place of another."""
    ir.convenience.replace_nodes_and_values(graph, old, [old], [new], old.outputs, new.outputs)


def _only_a_weight(value: ir.Value) -> bool:
    """Whether an initializer is only multiplied with or looked up in, so that no folding needs its values."""
    constant = value.const_value
    if constant is None or value.is_graph_output() or value.is_graph_input() or len(constant.shape) < 2:
        return False
    return constant.nbytes >= WEIGHT_BYTES and bool(value.uses()) and all(_multiplies(value, use.node, use.idx) for use in value.uses())


def _multiplies(value: ir.Value, node: ir.Node, index: int) -> bool:
    if node.graph is not value.graph:  # used inside the body of an If or Loop
        return False
    if node.op_type in ("MatMul", "Gemm"):
        return index < 2
    if node.op_type in ("Gather", "Transpose", "DequantizeLinear"):
        return index == 0
    return node.op_type in ("Conv", "ConvTranspose") and index == 1


def _fix_shapes(model: ir.Model, input_shapes: Mapping[str, tuple[int, ...]]) -> None:
    for value in model.graph.inputs:
        if value.name is not None and value.name in input_shapes:
            value.shape = ir.Shape(input_shapes[value.name])
    for node in model.graph:
        for value in node.outputs:  # what was inferred for the old shapes; a model's outputs must keep a rank
            value.shape = ir.Shape([None] * len(value.shape)) if value.is_graph_output() and value.shape is not None else None


def _put_together(result: ir.Model, skeleton: _Skeleton, model: ir.Model) -> None:
    """Give the weights and the sparse nodes back, and the inputs in their order, unused ones too."""
    graph = result.graph
    inputs = {value.name: value for value in graph.inputs}
    graph.inputs.clear()
    for value in skeleton.model.graph.inputs:
        name = value.name or ""
        if name in skeleton.weights and name in inputs:
            inputs[name].const_value = skeleton.weights[name]
            graph.register_initializer(inputs[name])
        elif name in skeleton.sparse and name in inputs:
            for use in list(inputs[name].uses()):
                _restore_sparse(graph, use.node, skeleton.sparse[name])
        elif name not in skeleton.weights and name not in skeleton.sparse:
            kept = inputs.get(name) or ir.Value(name=name)
            kept.shape, kept.type = value.shape, value.type  # as it was: the tools may think that they know more
            kept.meta.update(value.meta)
            graph.inputs.append(kept)
    for output, before in zip(graph.outputs, skeleton.model.graph.outputs, strict=True):
        output.shape = _named_as_before(output.shape, before.shape)
        output.meta.update(before.meta)
    result.metadata_props.update(model.metadata_props)
    for attribute in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        setattr(result, attribute, getattr(model, attribute))


def _named_as_before(shape: ir.Shape | None, before: ir.Shape | None) -> ir.Shape | None:
    """Sizes as found, with the names that the model gave to those that may change."""
    if shape is None or before is None or len(shape) != len(before):
        return shape if shape is not None else before
    return ir.Shape([size if isinstance(size, int) or isinstance(old, int) else old for size, old in zip(shape, before, strict=True)])


def _restore_sparse(graph: ir.Graph, dense: ir.Node, original: ir.Node) -> None:
    """dense: the stand-in as the tools left it. Its inputs but the last, the stand-in's own, are what flows in."""
    flowing = dense.inputs[:-1]
    constants = []
    for value in original.inputs[len(flowing) :]:
        assert value is not None and value.name and value.const_value is not None
        if value.name not in graph.initializers:
            graph.register_initializer(ir.Value(name=value.name, shape=value.shape, type=value.type, const_value=value.const_value))
        constants.append(graph.initializers[value.name])
    sparse = ir.node(original.op_type, [*flowing, *constants], domain=ONNX_DOMAIN, num_outputs=1, name=original.name)
    sparse.attributes.update(original.attributes)
    if "pads" in dense.attributes:  # a Pad before it may have been folded in
        sparse.attributes["pads"] = dense.attributes["pads"]
    sparse.metadata_props.update(original.metadata_props)
    _swap(graph, dense, sparse)
