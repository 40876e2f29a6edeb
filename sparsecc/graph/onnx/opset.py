"""An old model in a current opset, with the meaning that it had. onnx's version converter does most of it; what it gets wrong is put
right at the opset at which the meaning changed, and what it cannot take is made to fit before."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx
import onnx.version_converter
from onnx import TensorProto, helper, numpy_helper

from sparsecc.errors import ModelError
from sparsecc.graph.onnx.nodes import Names, constants, copied, replace_nodes
from sparsecc.graph.onnx.valid import graphs

logger = logging.getLogger(__name__)

OPSET = 18  # what older models are converted to
FUNCTION_OPSET = 16  # what a model that cannot be converted needs at least: the bodies of the sparse operators
_CONSTANTS_OF_DATA = {"Clip": (1, 2), "Pad": (2,)}  # inputs that have the data's type since opset 11, and were float attributes
_AT_LEAST = 11  # the opset from which on sizes and bounds are inputs: what is older is converted to that first
Types = Mapping[str, int]


def upgraded(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """Raises ModelError when the model cannot be converted and is too old to stay as it is."""
    opset = next(o.version for o in proto.opset_import if o.domain == "")
    if opset >= OPSET:
        return proto
    try:
        converted = _converted(proto, opset)
        check(converted)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        said = " ".join(str(error).split())[:300]
        if opset < FUNCTION_OPSET:
            raise ModelError(f"{where}: opset {opset} cannot be converted to {OPSET}: {said}") from None
        logger.info("%s: kept at opset %d: %s", where, opset, said)
        return proto
    return converted


def check(proto: onnx.ModelProto, full: bool = False) -> None:
    """onnx's checker, which wants the ranks of outputs that some exporters leave out. Raises ValidationError."""
    unknown = [output for output in proto.graph.output if not _has_shape(output)]
    if not unknown:
        onnx.checker.check_model(proto, full_check=full)
        return
    outputs = list(proto.graph.output)
    known = [output for output in outputs if _has_shape(output)]
    checked = copied(proto)
    del checked.graph.output[:]
    checked.graph.output.extend(known)
    onnx.checker.check_model(checked, full_check=full)


def _has_shape(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.WhichOneof("value")
    return kind is not None and (kind != "tensor_type" or value.type.tensor_type.HasField("shape"))


def _converted(proto: onnx.ModelProto, came: int) -> onnx.ModelProto:
    """To each opset at which something has to be put right by hand, for a model that is older than that, and then to the last."""
    types, opset = _types(proto), came
    for newest, mend in _MENDED:
        at = max(newest, _AT_LEAST)
        if came <= newest:
            proto = onnx.version_converter.convert_version(proto, at) if opset < at else copied(proto)
            mend(proto, types)
            opset = at
    return onnx.version_converter.convert_version(proto, OPSET)


def _types(proto: onnx.ModelProto) -> dict[str, int]:
    """Element types of values, as far as they can be inferred."""
    found: dict[str, int] = {}
    for graph in graphs(onnx.shape_inference.infer_shapes(proto)):
        found |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        values = (*graph.input, *graph.value_info, *graph.output)
        found |= {value.name: value.type.tensor_type.elem_type for value in values if value.type.HasField("tensor_type")}
    return found


def _sample_as_before(proto: onnx.ModelProto, types: Types) -> None:
    """Resize until opset 10 sampled at x / scale: for the nearest sample at the one below where it made larger, above where smaller.
    Without attributes it would now sample between."""
    scales = {name: tensor for graph in graphs(proto) for name, tensor in constants(graph).items()}
    _replace(proto, "Resize", lambda node, fresh: _resized(node, scales, fresh))


def _resized(node: onnx.NodeProto, constants: Mapping[str, TensorProto], fresh: Iterator[str]) -> list[onnx.NodeProto]:
    """In two steps where axes may go both ways: each leaves every axis as it is that the other one resizes."""
    node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
    x, roi, scales = node.input
    mode = next((attribute.s for attribute in node.attribute if attribute.name == "mode"), b"nearest")
    known = numpy_helper.to_array(constants[scales]) if scales in constants else None
    if mode != b"nearest":
        return [node]
    if known is not None and ((known >= 1).all() or (known <= 1).all()):
        return [_nearest(node, list(node.input), list(node.output), "floor" if (known >= 1).all() else "ceil")]
    larger, smaller, middle, one = (next(fresh) for _ in range(4))
    return [
        helper.make_node("Constant", [], [one], value=numpy_helper.from_array(np.ones(1, np.float32))),
        helper.make_node("Max", [scales, one], [larger]),
        helper.make_node("Min", [scales, one], [smaller]),
        _nearest(node, [x, roi, larger], [middle], "floor", name=f"{node.name}_up" if node.name else ""),
        _nearest(node, [middle, roi, smaller], list(node.output), "ceil"),
    ]


def _nearest(node: onnx.NodeProto, inputs: list[str], outputs: list[str], rounding: str, name: str | None = None) -> onnx.NodeProto:
    same = copied(node)
    same.name = node.name if name is None else name
    same.input[:], same.output[:] = inputs, outputs
    same.attribute.append(helper.make_attribute("nearest_mode", rounding))
    return same


def _retype(proto: onnx.ModelProto, types: Types) -> None:
    """Bounds of Clip and fillings of Pad, which were float attributes until opset 10, in the type of the data."""
    for graph in graphs(proto):
        known = constants(graph)
        for node in graph.node:
            wanted = types.get(node.input[0], TensorProto.FLOAT) if node.input else TensorProto.FLOAT
            for place in _CONSTANTS_OF_DATA.get(node.op_type, ()):
                constant = known.get(node.input[place]) if place < len(node.input) else None
                if constant is not None and wanted not in (constant.data_type, TensorProto.UNDEFINED):
                    array = numpy_helper.to_array(constant).astype(helper.tensor_dtype_to_np_dtype(wanted))
                    constant.CopyFrom(numpy_helper.from_array(array, constant.name))


def _mask_as_before(proto: onnx.ModelProto, types: Types) -> None:
    """Dropout until opset 11: onnxruntime's mask, when nothing is dropped, was all zeros; now it is all true."""
    _replace(proto, "Dropout", lambda node, fresh: _without_mask(node, types, fresh))


def _without_mask(node: onnx.NodeProto, types: Types, fresh: Iterator[str]) -> list[onnx.NodeProto]:
    if len(node.output) < 2 or not node.output[1]:
        return [node]
    shape, dtype = next(fresh), helper.tensor_dtype_to_np_dtype(types.get(node.output[1], TensorProto.BOOL))
    return [
        helper.make_node("Identity", [node.input[0]], [node.output[0]], name=node.name),
        helper.make_node("Shape", [node.input[0]], [shape]),
        helper.make_node("ConstantOfShape", [shape], [node.output[1]], value=numpy_helper.from_array(np.zeros(1, dtype))),
    ]


def _flatten_hardmaxes(proto: onnx.ModelProto, types: Types) -> None:
    """Hardmax(x, axis) → Reshape(Hardmax(Flatten(x, axis)), Shape(x)): until opset 12 it took all axes from `axis` on for one."""
    _replace(proto, "Hardmax", _flattened)


def _flattened(node: onnx.NodeProto, fresh: Iterator[str]) -> list[onnx.NodeProto]:
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    shape, flat, found = (next(fresh) for _ in range(3))
    return [
        helper.make_node("Shape", [node.input[0]], [shape]),
        helper.make_node("Flatten", [node.input[0]], [flat], axis=axis),
        helper.make_node("Hardmax", [flat], [found], axis=-1, name=node.name),
        helper.make_node("Reshape", [found, shape], list(node.output)),
    ]


def _replace(proto: onnx.ModelProto, op_type: str, rewrite: Callable[[onnx.NodeProto, Iterator[str]], list[onnx.NodeProto]]) -> None:
    """Other nodes for each one of an operator, wherever it is. rewrite: is also given names that no value has."""
    names = Names(proto.graph)
    fresh = (names.free(f"{op_type}.old_{number}") for number in itertools.count())
    for graph in graphs(proto):
        if any(_is(node, op_type) for node in graph.node):
            replace_nodes(graph, [new for node in graph.node for new in (rewrite(node, fresh) if _is(node, op_type) else [node])])


def _is(node: onnx.NodeProto, op_type: str) -> bool:
    return node.op_type == op_type and node.domain == ""


Mend = Callable[[onnx.ModelProto, Types], None]
_MENDED: tuple[tuple[int, Mend], ...] = (  # the last opset in which the operator meant something else, and what puts it right
    (10, _sample_as_before),
    (10, _retype),
    (11, _mask_as_before),
    (12, _flatten_hardmaxes),
)
