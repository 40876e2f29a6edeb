"""The ONNX meaning of the sparse operators: functions in domain `ai.sparsecc` whose bodies are standard operators.

A converted file carries the functions it calls, so a stock onnxruntime runs it: it inlines the body, folds the decoding of
the constant packed tensors when the session is made, and runs a dense product. A node reads

    SparseLinear_<format>[_nobias](x, *packed tensors[, bias])  {format, rows, cols, site}
    SparseConv2d_<format>[_nobias](x, *packed tensors[, bias])  {..., kernel_shape, strides, pads, dilations}

and a body is: decode to W [rows, cols], then MatMul and Add, or Conv. A new format adds one decoder to `DECODERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx_ir as ir

from sparsecc.formats.base import Packed
from sparsecc.ops.base import ONNX_DOMAIN

if TYPE_CHECKING:
    from sparsecc.formats.base import Format
    from sparsecc.ops.base import SiteOp

MIN_OPSET = 16  # ScatterElements adds since 16
DOMAIN_VERSION = 1
LINEAR, CONV2D = "SparseLinear", "SparseConv2d"
PARAMETER: str = "format"  # the attribute that says how the weight is stored

# Attributes that every layer's node has, whether the body reads them or only who imports the file.
LAYER = {"site": ir.AttributeType.STRING, "rows": ir.AttributeType.INT, "cols": ir.AttributeType.INT}

Value = ir.Value
Decoder = Callable[["Body", Mapping[str, Value], "Format"], Value]


class Call(NamedTuple):
    """A node to place: its inputs are x, the packed tensors in the format's order and the bias if there is one."""

    op_type: str
    attributes: dict[str, Any]


class Body:
    """Writes a function body operator by operator."""

    def __init__(self, inputs: Sequence[str]) -> None:
        self.inputs = {name: ir.Value(name=name) for name in inputs}
        self.attributes: dict[str, ir.AttributeType] = {}
        self._tape = ir.tape.Tape()

    @cached_property
    def rows(self) -> Value:
        """int64[1], of the layer's matrix."""
        return self.int_of("rows")

    @cached_property
    def cols(self) -> Value:
        return self.int_of("cols")

    def op(self, op_type: str, *inputs: Value | None, **attributes: ir.Attr | ir.TensorProtocol | int | Sequence[int] | str) -> Value:
        return self._tape.op(op_type, inputs, attributes)

    def ints(self, *values: int) -> Value:
        """A constant int64[n]."""
        return self.op("Constant", value_ints=list(values))

    def scalar(self, value: int) -> Value:
        """A constant int64 without dimensions."""
        return self.op("Constant", value_int=value)

    def tensor(self, array: np.ndarray) -> Value:
        """Any constant."""
        return self.op("Constant", value=ir.Tensor(array))

    def ints_of(self, attribute: str) -> Value:
        """A list-of-ints attribute of the calling node, as int64[n]."""
        return self.op("Constant", value_ints=self.forward("value_ints", attribute))

    def int_of(self, attribute: str) -> Value:
        """An int attribute of the calling node, as int64[1]."""
        number = self.op("Constant", value_int=self.forward("value_int", attribute, ir.AttributeType.INT))
        return self.op("Reshape", number, self.ints(1))

    def forward(self, name: str, to: str, kind: ir.AttributeType = ir.AttributeType.INTS) -> ir.Attr:
        """The calling node's attribute `to`, handed on to an operator of the body as its attribute `name`."""
        self.attributes[to] = kind
        return ir.RefAttr(name, to, kind)

    def concat(self, *parts: Value) -> Value:
        return self.op("Concat", *parts, axis=0)

    def int64(self, value: Value) -> Value:
        return self.op("Cast", value, to=int(ir.DataType.INT64))

    def zeros(self, like: Value, shape: Value) -> Value:
        """Zeros of the element type of `like`."""
        return self.op("Expand", self.op("CastLike", self.scalar(0), like), shape)

    def function(self, name: str, output: Value, opset: int, known: Mapping[str, ir.AttributeType]) -> ir.Function:
        """known: attributes that nodes have beside those which the body reads."""
        output.name = "y"
        attributes = [ir.Attr(key, kind, None) for key, kind in {**known, **self.attributes}.items()]
        graph = ir.Graph(list(self.inputs.values()), [output], nodes=self._tape.nodes, name=name, opset_imports={"": opset})
        return ir.Function(ONNX_DOMAIN, name, graph=graph, attributes=attributes)


def op_type(kind: str, format: Format, rows: int, cols: int, bias: bool) -> str:
    """The function's name: `SparseLinear_nm_2_4`, `SparseConv2d_block_4x1_nobias`; the same for all shapes."""
    return f"{kind}_{format.key.replace(':', '_')}" + ("" if bias else "_nobias")


def call(op: SiteOp, site: str) -> Call:
    """The node that stands in the place of a site. The operator's class name is the kind of node."""
    packed = op.stored
    assert isinstance(packed, Packed)
    attributes: dict[str, Any] = {"format": packed.format.key, "rows": packed.rows, "cols": packed.cols, "site": site}
    kind = type(op).__name__
    if kind == CONV2D:
        geometry = {"kernel_shape": op.kernel, "strides": op.stride, "pads": op.padding, "dilations": op.dilation}  # type: ignore[attr-defined]
        attributes |= {name: list(value) for name, value in geometry.items()}
    return Call(op_type(kind, packed.format, packed.rows, packed.cols, op.bias is not None), attributes)


def function(kind: str, format: Format, rows: int, cols: int, bias: bool, opset: int) -> ir.Function:
    """The function that a node of one kind (LINEAR, CONV2D), format and presence of a bias calls, of whatever shape.

    opset: the model's, at least MIN_OPSET; the checker wants functions to agree with their model.  Raises KeyError for a
    format without a decoder.
    """
    tensors = format.tensor_names
    body = Body(["x", *tensors, *(["bias"] if bias else [])])
    weight = decoded(body, {name: body.inputs[name] for name in tensors}, format)
    finish = _linear if kind == LINEAR else _conv2d
    known = {**LAYER, "format": ir.AttributeType.STRING}
    return body.function(op_type(kind, format, rows, cols, bias), finish(body, weight, body.inputs.get("bias")), opset, known)


def _linear(body: Body, weight: Value, bias: Value | None) -> Value:
    product = body.op("MatMul", body.inputs["x"], body.op("Transpose", weight, perm=[1, 0]))
    return body.op("Add", product, bias) if bias is not None else product


def _conv2d(body: Body, weight: Value, bias: Value | None) -> Value:
    """The matrix is [out, kh·kw·in] with the channels innermost; Conv wants [out, in, kh, kw]."""
    taps = body.op("Reshape", weight, body.concat(body.rows, body.ints_of("kernel_shape"), body.ints(-1)))
    kernel = body.op("Transpose", taps, perm=[0, 3, 1, 2])
    forwarded = {name: body.forward(name, name) for name in ("strides", "pads", "dilations")}
    operands = (kernel,) if bias is None else (kernel, bias)
    return body.op("Conv", body.inputs["x"], *operands, **forwarded)


def decoded(body: Body, packed: Mapping[str, Value], format: Format) -> Value:
    """The matrix [rows, cols] of packed tensors. Raises KeyError for a format without a decoder."""
    return DECODERS[format.key.split(":", 1)[0]](body, packed, format)


def _row_of_each(body: Body, row_ptr: Value, count: Value) -> Value:
    """int64[count]: to which row each stored unit belongs. A one is added where a row starts, the running sum counts rows;
    empty rows start at the same place, so their ones add up."""
    starts = body.int64(body.op("Slice", row_ptr, body.ints(1), body.ints(-1)))
    marks = body.zeros(starts, body.op("Add", count, body.ints(1)))  # trailing empty rows start one past the end
    ones = body.op("Expand", body.scalar(1), body.op("Shape", starts))
    rows = body.op("CumSum", body.op("ScatterElements", marks, starts, ones, axis=0, reduction="add"), body.scalar(0))
    return body.op("Slice", rows, body.ints(0), count)


def _csr(body: Body, packed: Mapping[str, Value], format: Format) -> Value:
    """values T[nnz], cols [nnz], row_ptr [rows + 1]"""
    values = packed["values"]
    row = _row_of_each(body, packed["row_ptr"], body.op("Shape", values))
    flat = body.op("Add", body.op("Mul", row, body.cols), body.int64(packed["cols"]))
    empty = body.zeros(values, body.op("Mul", body.rows, body.cols))
    return body.op("Reshape", body.op("ScatterElements", empty, flat, values, axis=0), body.concat(body.rows, body.cols))


def _block(body: Body, packed: Mapping[str, Value], format: Format) -> Value:
    """values T[blocks, r, c], cols [blocks], row_ptr [rows / r + 1]"""
    values = packed["values"]
    height, width = (int(side) for side in format.pattern.split("x"))
    row = _row_of_each(body, packed["row_ptr"], body.op("Shape", values, end=1))
    place = body.op("Concat", *(body.op("Unsqueeze", i, body.ints(1)) for i in (row, body.int64(packed["cols"]))), axis=1)
    down, across = body.op("Div", body.rows, body.ints(height)), body.op("Div", body.cols, body.ints(width))
    blocks = body.op("ScatterND", body.zeros(values, body.concat(down, across, body.ints(height, width))), place, values)
    return body.op("Reshape", body.op("Transpose", blocks, perm=[0, 2, 1, 3]), body.concat(body.rows, body.cols))


def _nm(body: Body, packed: Mapping[str, Value], format: Format) -> Value:
    """values T[rows, kept], index uint8[rows, bytes]: b bits per kept value, 8 / b of them in a byte, the first in the lowest bits"""
    values = packed["values"]
    kept, group = (int(count) for count in format.pattern.split(":"))
    bits = next(b for b in (1, 2, 4, 8) if 1 << b >= group)
    # What each byte says is looked up: half the time of dividing, in onnxruntime. int32, for there are as many as values.
    meaning = np.arange(256, dtype=np.int32)[:, None] >> np.arange(0, 8, bits, dtype=np.int32) & (1 << bits) - 1
    slots = body.op("Gather", body.tensor(meaning), body.op("Cast", packed["index"], to=int(ir.DataType.INT32)), axis=0)
    slots = body.op("Reshape", slots, body.concat(body.rows, body.ints(-1)))
    slots = body.op("Slice", slots, body.ints(0), body.op("Shape", values, start=1), body.ints(1))  # a row is padded to whole bytes
    groups = body.op("Div", body.op("Mul", body.rows, body.cols), body.ints(group))
    empty = body.zeros(values, body.concat(groups, body.ints(group)))
    filled = body.op("ScatterElements", empty, *(body.op("Reshape", t, body.ints(-1, kept)) for t in (slots, values)), axis=1)
    return body.op("Reshape", filled, body.concat(body.rows, body.cols))


DECODERS: dict[str, Decoder] = {"csr": _csr, "block": _block, "nm": _nm}
