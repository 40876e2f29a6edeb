"""Making a model that came from anywhere simple enough to find sites in: current opset, no local functions, constants folded.

The tools for that (onnx's inliner and version converter, onnxslim) work on protos, copy every weight and know nothing of
`ai.sparsecc`. So they get a skeleton: weights that nobody folds become inputs, a sparse node becomes the dense node of the
same shape with a stand-in for its weight, and both are put back afterwards.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import onnx
import onnx.inliner
import onnx.version_converter
import onnx_ir as ir
from onnx_ir.passes import common

from sparsecc.errors import ModelError
from sparsecc.graph import contrib, onnx_loops, onnx_names, onnx_sparse
from sparsecc.graph.onnx_fold import fold_scales, lift_weights, unflatten_softmaxes
from sparsecc.graph.onnx_io import first_cause
from sparsecc.ops.base import ONNX_DOMAIN
from sparsecc.ops.onnx_block_attention import is_block_attention

logger = logging.getLogger(__name__)

OPSET = 18  # what older models are converted to
FUNCTION_OPSET = 16  # what a model that cannot be converted needs at least: the bodies of the sparse operators
WEIGHT_BYTES = 4096  # smaller constants are never worth keeping from the tools
# Fusing MatMul and Add into Gemm costs two reshapes per layer and hides which layer it was; tying equal weights makes layers
# shared that the model holds apart.
SKIPPED_FUSIONS = ["FusionGemm", "FusionGemmMul", "FusionGemmAdd"]
SKIPPED_OPTIMIZATIONS = ["weight_tying"]
_STAND_IN = "ai.sparsecc.weight_of."
_slim_lock = threading.Lock()  # onnxslim keeps its settings in a global


@dataclass
class _Skeleton:
    """model: what the tools see.  weights: detached initializers by name.  sparse: the nodes that stand-ins stand for, by stand-in."""

    model: ir.Model
    weights: dict[str, ir.TensorProtocol] = field(default_factory=dict)
    sparse: dict[str, ir.Node] = field(default_factory=dict)


def clean(
    model: ir.Model, where: str, input_shapes: Mapping[str, tuple[int, ...]] | None = None, *, standard: bool = False
) -> ir.Model:
    """A simpler model that computes the same; with these input shapes fixed, if given, and everything that follows from them folded.
    standard: without operators of com.microsoft, as far as `contrib` knows them, and without loops that run a known number of times; else
    without those operators that hide a layer.

    The given model is left alone and shares its weights with the result. Raises ModelError when the model does not check or is
    too old to be converted.
    """
    named = onnx_names.hints(model)
    skeleton = _take_apart(model)
    if input_shapes:
        _fix_shapes(skeleton.model, input_shapes)
    try:
        proto = ir.serde.serialize_model(skeleton.model)
    except ir.serde.SerdeError as error:
        raise ModelError(f"{where}: damaged: {first_cause(error)}") from None
    proto = _upgraded(_inlined(proto, where), where)
    if contrib.take_apart(proto, everything=standard):
        named |= onnx_names.hints(ir.serde.deserialize_model(proto))
    proto = _checked(_with_output_shapes(proto), where)
    proto = _slimmed(proto, where)
    while standard and onnx_loops.unroll(proto):  # the loops inside, or behind, are seen once the others are written out
        proto = _slimmed(proto, where)
    result = ir.serde.deserialize_model(proto)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(result)
    _put_together(result, skeleton, model)
    lift_weights(result)
    unflatten_softmaxes(result)
    fold_scales(result)
    common.RemoveUnusedNodesPass()(result)
    onnx_names.store(result, named)
    onnx_sparse.complete(result)
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
            skeleton.weights[name] = value.const_value  # type: ignore[assignment]
            value.shape, value.dtype = value.const_value.shape, value.const_value.dtype  # type: ignore[union-attr, assignment]
            del graph.initializers[name]
            value.const_value = None
            graph.inputs.append(value)
    return skeleton


def _stand_in(skeleton: _Skeleton, node: ir.Node, original: ir.Node) -> None:
    """SparseLinear(x, ...) (and its kin) → MatMul(x, W), SparseConv2d(x, ...) → Conv(x, W), with W an input of the dense weight's shape."""
    graph = skeleton.model.graph
    stored = onnx_sparse.weight(original)
    name = f"{_STAND_IN}{original.outputs[0].name}"
    values = original.inputs[1]
    assert values is not None and values.const_value is not None
    if onnx_sparse.is_conv(node):
        kernel = node.attributes["kernel_shape"].as_ints()
        shape, op_type = (stored.rows, stored.cols // (kernel[0] * kernel[1]), *kernel), "Conv"
        attributes = [node.attributes[key] for key in ("kernel_shape", "strides", "pads", "dilations")]
    else:
        shape, op_type, attributes = (stored.cols, stored.rows), "MatMul", []
    dtype = ir.DataType.FLOAT if onnx_sparse.is_quantized(node) else values.const_value.dtype  # of what flows, not of what is stored
    weight = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
    graph.inputs.append(weight)
    dense = ir.node(op_type, [node.inputs[0], weight], num_outputs=1, name=node.name)
    dense.attributes.update({attribute.name: attribute for attribute in attributes})
    _swap(graph, node, dense)
    skeleton.sparse[name] = original


def _attention_stand_in(skeleton: _Skeleton, node: ir.Node, original: ir.Node) -> None:
    """BlockAttention(q, k, v, ...) → Sum(q, k, v, mark), which has the output's shape, with a number as mark and input."""
    graph = skeleton.model.graph
    onnx_sparse.block_map(original)  # raises for a damaged one
    q, k, v = node.inputs[:3]
    mark = ir.Value(name=f"{_STAND_IN}{original.outputs[0].name}", shape=ir.Shape([1]), type=q.type if q is not None else None)
    mark.type = mark.type or ir.TensorType(ir.DataType.FLOAT)
    graph.inputs.append(mark)
    _swap(graph, node, ir.node("Sum", [q, k, v, mark], num_outputs=1, name=node.name))
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
    if node.op_type == "Conv" and index == 1:
        return not any(use.node.op_type in ("BatchNormalization", "Mul", "Add") for use in node.outputs[0].uses())
    return False


def _fix_shapes(model: ir.Model, input_shapes: Mapping[str, tuple[int, ...]]) -> None:
    for value in model.graph.inputs:
        if value.name is not None and value.name in input_shapes:
            value.shape = ir.Shape(input_shapes[value.name])
    for node in model.graph:
        for value in node.outputs:  # what was inferred for the old shapes; a model's outputs must keep a rank
            value.shape = ir.Shape([None] * len(value.shape)) if value.is_graph_output() and value.shape is not None else None


def _inlined(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    if not proto.functions:
        return proto
    try:
        return onnx.inliner.inline_local_functions(proto)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{where}: its local functions cannot be inlined: {first_cause(error)}") from None


def _upgraded(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    opset = next(o for o in proto.opset_import if o.domain in ("", "ai.onnx"))
    if opset.version >= OPSET:
        return proto
    try:
        converted = onnx.version_converter.convert_version(proto, OPSET)
        onnx.checker.check_model(converted)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        if opset.version < FUNCTION_OPSET:
            raise ModelError(f"{where}: opset {opset.version} cannot be converted to {OPSET}: {first_cause(error)}") from None
        logger.info("%s: kept at opset %d: %s", where, opset.version, first_cause(error))
        return proto
    return converted


def _with_output_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """With the ranks of the outputs, which some exporters leave out and the checker wants."""
    if all(output.type.tensor_type.HasField("shape") for output in proto.graph.output):
        return proto
    return onnx.shape_inference.infer_shapes(proto)


def _checked(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{where}: not a valid model: {first_cause(error)}") from None
    return proto


def _slimmed(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """onnxslim's result if it checks and keeps the outputs, else the model as it was: a slimmer model is never worth a wrong one."""
    wanted = [output.name for output in proto.graph.output]
    slim: onnx.ModelProto | None = None
    try:
        slim = _slim(proto)
        onnx.checker.check_model(slim, full_check=True)
        reason = "" if [output.name for output in slim.graph.output] == wanted else "it changed the outputs"
    except Exception as error:  # noqa: BLE001 - whatever a third party's rewrite raises, the model itself is sound
        reason = f"{type(error).__name__}: {first_cause(error)}"
    if reason or slim is None:
        logger.warning("%s: left unsimplified, onnxslim failed: %s", where, reason)
        return onnx.shape_inference.infer_shapes(proto, data_prop=True)
    return slim


def _slim(proto: onnx.ModelProto) -> onnx.ModelProto:
    import onnxslim

    copied = onnx.ModelProto()
    copied.CopyFrom(proto)  # onnxslim edits what it is given
    if not _declares_right_shapes(proto):  # and folds by the shapes that a file declares
        del copied.graph.value_info[:]
        for output in copied.graph.output:
            output.type.tensor_type.ClearField("shape")
    skipped: dict[str, Any] = {"skip_fusion_patterns": SKIPPED_FUSIONS, "skip_optimizations": SKIPPED_OPTIMIZATIONS}
    with _slim_lock:
        return cast("onnx.ModelProto", onnxslim.slim(copied, **skipped))


def _declares_right_shapes(proto: onnx.ModelProto) -> bool:
    """Whether all declared shapes agree with what the operators compute, as far as onnx knows the operators."""
    if any(node.domain not in ("", "ai.onnx") for node in proto.graph.node):
        return False
    try:
        onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return False
    return True


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
            graph.inputs.append(inputs.get(name) or ir.Value(name=name, shape=value.shape, type=value.type))
    for output, before in zip(graph.outputs, skeleton.model.graph.outputs, strict=True):
        output.shape = _named_as_before(output.shape, before.shape)
    result.metadata_props.update(model.metadata_props)
    for attribute in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        setattr(result, attribute, getattr(model, attribute))


def _named_as_before(shape: ir.Shape | None, before: ir.Shape | None) -> ir.Shape | None:
    """Sizes as found, with the names that the model gave to those that may change."""
    if shape is None or before is None or len(shape) != len(before):
        return shape
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
