"""The ONNX meaning of structured_linear: functions that multiply by one factor after the other. A node reads

    StructuredLinear_<structure>_<rows>x<cols>[_nobias](x, *factors[, bias])  {structure, rows, cols, site}

A block-diagonal factor is one batched MatMul over [blocks, tokens, features]; between two of them everything that moves, the permutation
included, is one Transpose. In onnxruntime that is 1.5 to 2.8 times as fast as the dense MatMul at a quarter of its work
(benchmarks/results/structures.md); Split and Concat around a MatMul for each block were slower at 512 tokens and from 8 blocks on. A
factor of one block is a plain MatMul, which onnxruntime packs ahead; a sparse one, which has the layer's rows and columns, is decoded for
it when the session is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sparsecc.ops.onnx_body import Body, Value
from sparsecc.ops.onnx_decoding import decoded
from sparsecc.ops.onnx_layer import LayerFunctions, with_bias
from sparsecc.structures.base import Factor, Structure


class StructuredLinearFunctions(LayerFunctions[Structure]):
    """Factors are known for one shape, so each has a function of its own."""

    def name(self, storage: Structure, rows: int, cols: int) -> str:
        return f"{super().name(storage, rows, cols)}_{rows}x{cols}"

    def output(self, body: Body, storage: Structure, rows: int, cols: int) -> Value:
        factors = storage.outline(rows, cols)
        y, blocks, names = body.inputs["x"], 1, iter(storage.tensor_names)
        first = len(factors[0].weight)
        view, order = (first, cols // first), (0, 1)
        for factor in factors:
            y = _moved(body, y, blocks, len(factor.weight), view, order)
            y = _multiplied(body, y, _weight(body, factor, [body.inputs[next(names)] for _ in factor.tensors]), factor)
            blocks = len(factor.weight)
            view, order = factor.view or (blocks, factor.outputs // blocks), factor.order or (0, 1)
        return with_bias(body, _moved(body, y, blocks, 1, view, order))


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
