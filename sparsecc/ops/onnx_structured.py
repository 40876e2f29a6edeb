"""The ONNX meaning of structured_linear: functions in domain `ai.sparsecc` whose bodies are standard operators. A node reads

    StructuredLinear_<structure>_<rows>x<cols>[_nobias](x, *factors[, bias])  {structure, rows, cols, site}

and a body multiplies by one factor after the other. A block-diagonal factor is one batched MatMul over [blocks, tokens, features];
between two of them everything that moves, the permutation included, is one Transpose. In onnxruntime that is 1.5 to 2.8 times as fast
as the dense MatMul at a quarter of its work (benchmarks/results/structures.md); Split and Concat around a MatMul for each block were
slower at 512 tokens and from 8 blocks on. A factor of one block is a plain MatMul, which onnxruntime packs ahead; a sparse one, which has
the layer's rows and columns, is decoded for it when the session is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from sparsecc.ops.onnx_functions import LAYER, Body, Call, Value, decoded
from sparsecc.structures.base import Structured

if TYPE_CHECKING:
    from sparsecc.ops.base import SiteOp
    from sparsecc.structures.base import Factor, Structure

LINEAR = "StructuredLinear"
PARAMETER: str = "structure"  # the attribute that says how the weight is stored


def op_type(kind: str, structure: Structure, rows: int, cols: int, bias: bool) -> str:
    """The function's name: `StructuredLinear_monarch_4x8_2_3072x768`."""
    return f"{kind}_{structure.key.replace(':', '_')}_{rows}x{cols}" + ("" if bias else "_nobias")


def call(op: SiteOp, site: str) -> Call:
    """The node that stands in the place of a site."""
    weight = op.stored
    assert isinstance(weight, Structured)
    attributes = {"structure": weight.structure.key, "rows": weight.rows, "cols": weight.cols, "site": site}
    return Call(op_type(LINEAR, weight.structure, weight.rows, weight.cols, op.bias is not None), attributes)


def function(kind: str, structure: Structure, rows: int, cols: int, bias: bool, opset: int) -> ir.Function:
    """The function that a node of one structure, shape and presence of a bias calls. opset: the model's, at least MIN_OPSET."""
    body = Body(["x", *structure.tensor_names, *(["bias"] if bias else [])])
    factors = structure.outline(rows, cols)
    y, blocks, names = body.inputs["x"], 1, iter(structure.tensor_names)
    first = len(factors[0].weight)
    view, order = (first, cols // first), (0, 1)
    for factor in factors:
        y = _moved(body, y, blocks, len(factor.weight), view, order)
        y = _multiplied(body, y, _weight(body, factor, [body.inputs[next(names)] for _ in factor.tensors]), factor)
        blocks = len(factor.weight)
        view, order = factor.view or (blocks, factor.outputs // blocks), factor.order or (0, 1)
    y = _moved(body, y, blocks, 1, view, order)
    y = body.op("Add", y, body.inputs["bias"]) if bias else y
    return body.function(op_type(kind, structure, rows, cols, bias), y, opset, {**LAYER, "structure": ir.AttributeType.STRING})


def _weight(body: Body, factor: Factor, stored: Sequence[Value]) -> Value:
    if factor.packed is None:
        return stored[0]
    return decoded(body, dict(zip(factor.packed.tensors, stored, strict=True)), factor.packed.format)


def _moved(body: Body, y: Value, blocks: int, wanted: int, view: Sequence[int], order: Sequence[int]) -> Value:
    """[blocks, tokens, features] → [wanted, tokens, features], the features seen as `view` and transposed by `order` on the way.
    One block is written as x came, [..., features]."""
    if blocks == wanted == 1 and list(order) == sorted(order):
        return y
    ordered = [view[axis] for axis in order]
    before, after = _leading(view, blocks), _leading(ordered, wanted)
    axes = [axis + (axis >= before) for axis in order]
    spread = body.op("Reshape", y, body.ints(*view[:before], -1, *view[before:]))
    turned = body.op("Transpose", spread, perm=[*axes[:after], before, *axes[after:]])
    features = body.ints(math.prod(view) // wanted)
    if wanted > 1:
        return body.op("Reshape", turned, body.concat(body.ints(wanted, -1), features))
    return body.op("Reshape", turned, body.concat(body.op("Shape", body.inputs["x"], end=-1), features))


def _leading(sizes: Sequence[int], count: int) -> int:
    """How many of the first axes make up `count`, as `Structure.factors` promises."""
    return [math.prod(sizes[:axes]) for axes in range(len(sizes) + 1)].index(count)


def _multiplied(body: Body, y: Value, weight: Value, factor: Factor) -> Value:
    """The weight is turned once, when the session is made: it is constant. What meets a tied block is seen as more tokens."""
    blocks, rows, cols = factor.weight.shape
    if blocks > 1:
        turned = body.op("Transpose", weight, perm=[0, 2, 1])
    else:
        turned = body.op("Transpose", body.op("Reshape", weight, body.ints(rows, cols)), perm=[1, 0])
    if factor.tied == 1:
        return body.op("MatMul", y, turned)
    product = body.op("MatMul", body.op("Reshape", y, body.ints(*([blocks] if blocks > 1 else []), -1, cols)), turned)
    if blocks > 1:
        return body.op("Reshape", product, body.ints(blocks, -1, factor.tied * rows))
    return body.op("Reshape", product, body.concat(body.op("Shape", body.inputs["x"], end=-1), body.ints(factor.tied * rows)))
