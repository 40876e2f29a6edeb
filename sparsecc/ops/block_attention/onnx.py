"""The ONNX meaning of block_attention: functions of standard operators in domain `ai.sparsecc`. A node reads

    BlockAttention(q, k, v, orders uint8[heads], keep uint8[heads, blocks, ⌈blocks/8⌉])  {grid, text_first, block, scale, site}

with eight blocks of keep in a byte, the first in the lowest bit, and grid = frames, height, width, text tokens. Others have their
difference in the name: `_permuted` with orders int32[heads, tokens], `_in_order` without orders, `_causal` with {causal: 1}, `_grouped`
where heads of q share those of k and v, and `_masked` with a mask after v, which is added to the scores of tokens in the model's order
(so that it is for `_in_order` alone), with {masked: 1}; `_bfloat16` and `_int8` round q, k and v, with {precision: "bfloat16"}. The body
brings q, k and v into each head's order, computes the whole map, hides what is not kept, and brings the result back. It is right rather
than fast: a stock onnxruntime spends what dense attention takes, and a mask of heads · tokens² bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from sparsecc.attention.base import AXIS_ORDERS, BlockMap, Grid
from sparsecc.attention.rounding import LEVELS, PRECISIONS, Precision
from sparsecc.bits import pack_bits, unpack_bits
from sparsecc.ops.base import ONNX_DOMAIN
from sparsecc.ops.onnx_body import Body, Value
from sparsecc.ops.onnx_layer import Call

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.ops.block_attention.torch import BlockAttention

OP_TYPE = "BlockAttention"  # and what follows an underscore


@dataclass(frozen=True)
class Kind:
    """What functions are told apart by. orders: "" by axes, "permuted", "in_order".  precision: what q, k and v are rounded to."""

    orders: str
    causal: bool
    grouped: bool
    masked: bool = False
    precision: Precision = "float32"

    @classmethod
    def of(cls, op_type: str) -> Kind:
        """Inverse of `op_type`. Raises TypeError for a name that none has."""
        marks, each = (False, True), itertools.product
        kinds = (cls(*kind) for kind in each(_WAYS, marks, marks, marks, PRECISIONS))
        found = next((kind for kind in kinds if kind.op_type == op_type), None)
        if found is None:
            raise TypeError(f"there is no {op_type}")
        return found

    @property
    def op_type(self) -> str:
        marks = (
            self.orders,
            "causal" if self.causal else "",
            "grouped" if self.grouped else "",
            "masked" if self.masked else "",
            self._narrow,
        )
        return "_".join([OP_TYPE, *(mark for mark in marks if mark)])

    @property
    def _narrow(self) -> str:
        return "" if self.precision == "float32" else self.precision

    @property
    def inputs(self) -> tuple[str, ...]:
        """What flows in, then the constants."""
        mask, orders = ("mask",) if self.masked else (), () if self.orders == "in_order" else ("orders",)
        return ("q", "k", "v", *mask, *orders, "keep")


def is_block_attention(node: ir.Node) -> bool:
    return node.domain == ONNX_DOMAIN and node.op_type.partition("_")[0] == OP_TYPE


def kind_of(op: BlockAttention, masked: bool = False) -> Kind:
    orders = op.map.orders
    way = "in_order" if orders is None else "permuted" if orders.dim() == 2 else ""
    return Kind(way, op.map.causal, op.grouped, masked, op.precision)


def call(op: BlockAttention, site: str, masked: bool = False) -> Call:
    """The node that stands in the place of a site."""
    grid = op.map.grid
    sizes = {"grid": [*grid.axes, grid.text_tokens], "text_first": int(grid.text_first), "block": op.map.block}
    marks = {name: 1 for name, holds in (("causal", op.map.causal), ("masked", masked)) if holds}
    narrow = {} if op.precision == "float32" else {"precision": op.precision}
    return Call(kind_of(op, masked).op_type, {**sizes, **marks, **narrow, "scale": op.scale, "site": site})


def stored(block_map: BlockMap) -> dict[str, Tensor]:
    """The constant inputs of a node by name."""
    orders = {} if block_map.orders is None else {"orders": block_map.orders}
    return {**orders, "keep": pack_bits(block_map.keep)}


def restore(attributes: Mapping[str, Any], constants: Sequence[Tensor]) -> BlockMap:
    """The map of a node with these attributes and constant inputs. Raises KeyError, TypeError or ValueError for a node that sparsecc did
    not write."""
    frames, height, width, text = (int(size) for size in attributes["grid"])
    grid, block = Grid(frames, height, width, text, bool(attributes["text_first"])), int(attributes["block"])
    *orders, keep = constants
    if len(orders) > 1:
        raise ValueError(f"it has {len(constants)} constants")
    bits = unpack_bits(keep, grid.blocks(block))
    return BlockMap(grid, block, orders[0] if orders else None, bits, bool(attributes.get("causal", False)))


def function(op_type: str, opset: int) -> ir.Function:
    """What a node of this name calls. opset: the model's, at least MIN_OPSET. Raises TypeError for a name that none has."""
    kind = Kind.of(op_type)
    body = Body(kind.inputs, opset)
    q, k, v = (body.inputs[name] for name in ("q", "k", "v"))
    if kind.grouped:
        k, v = (_repeated(body, x) for x in (k, v))
    tokens, places = _WAYS[kind.orders](body)
    scale = body.op("Constant", value_float=body.forward("value_float", "scale", ir.AttributeType.FLOAT))
    q, k, reordered = (x if places is None else _taken(body, x, places) for x in (q, k, v))
    q, k, reordered = _rounded(body, (q, k, reordered), kind.precision)
    scores = body.op("Mul", body.op("MatMul", q, body.op("Transpose", k, perm=[0, 1, 3, 2])), body.op("CastLike", scale, q))
    scores = body.op("Add", scores, body.op("CastLike", body.inputs["mask"], scores)) if kind.masked else scores
    nothing = body.op("CastLike", body.tensor(np.array(-np.inf, np.float32)), scores)
    mask = _mask(body, tokens)
    mask = body.op("And", mask, _earlier(body, tokens)) if kind.causal else mask
    seen = body.op("Softmax", body.op("Where", mask, scores, nothing), axis=-1)
    if kind.masked:  # a query that sees no key
        seen = body.op("Where", body.op("IsNaN", seen), body.op("CastLike", body.scalar(0), seen), seen)
    output = body.op("MatMul", seen, reordered)
    output = output if places is None else _taken(body, output, _inverse(body, places))
    marks = [name for name, holds in (("causal", kind.causal), ("masked", kind.masked)) if holds]
    known = {"site": ir.AttributeType.STRING, **dict.fromkeys(marks, ir.AttributeType.INT)}
    known |= {} if kind.precision == "float32" else {"precision": ir.AttributeType.STRING}
    unread = {} if kind.orders == "" else {"grid": ir.AttributeType.INTS, "text_first": ir.AttributeType.INT}
    return body.function(op_type, output, known | unread)


def _places(body: Body) -> tuple[Value, Value]:
    """tokens int64[1], and int64[heads · tokens]: which row of [heads · tokens] comes to each place of the reordered heads."""
    grid, text_first = body.ints_of("grid"), body.int_of("text_first")
    axes, text = body.op("Slice", grid, body.ints(0), body.ints(3)), body.op("Slice", grid, body.ints(3), body.ints(4))
    video = body.op("ReduceProd", axes, keepdims=1)
    before = body.op("Mul", text, text_first)
    raster = body.op("Reshape", body.op("Add", _range(body, video), before), axes)
    orders = [body.op("Reshape", body.op("Transpose", raster, perm=list(order)), body.ints(1, -1)) for order in AXIS_ORDERS]
    chosen = body.op("Gather", body.op("Concat", *orders, axis=0), body.int64(body.inputs["orders"]), axis=0)
    heads = body.op("Shape", body.inputs["orders"])
    tokens = body.op("Add", video, text)
    front = _each(body, _range(body, before), heads)
    back = _each(body, body.op("Add", _range(body, body.op("Sub", text, before)), body.op("Add", before, video)), heads)
    of_head = body.op("Concat", front, chosen, back, axis=1)
    first = body.op("Reshape", body.op("Mul", _range(body, heads), tokens), body.ints(-1, 1))
    return tokens, body.op("Reshape", body.op("Add", of_head, first), body.ints(-1))


def _permuted_places(body: Body) -> tuple[Value, Value]:
    """As `_places`, from int32[heads, tokens]."""
    orders = body.int64(body.inputs["orders"])
    heads, tokens = body.op("Shape", orders, end=1), body.op("Shape", orders, start=1)
    first = body.op("Reshape", body.op("Mul", _range(body, heads), tokens), body.ints(-1, 1))
    return tokens, body.op("Reshape", body.op("Add", orders, first), body.ints(-1))


def _no_places(body: Body) -> tuple[Value, None]:
    return body.op("Shape", body.inputs["q"], start=2, end=3), None


_WAYS: Mapping[str, Callable[[Body], tuple[Value, Value | None]]] = {"": _places, "permuted": _permuted_places, "in_order": _no_places}


def _rounded(body: Body, inputs: Sequence[Value], precision: str) -> Sequence[Value]:
    """q, k and v in the order of each head, as they are multiplied."""
    if precision == "float32":
        return inputs
    q, k, v = inputs
    halves = (q, k, v) if precision == "bfloat16" else (v,)
    narrow = [body.op("CastLike", body.cast(x, "bfloat16"), x) for x in halves]
    return narrow if precision == "bfloat16" else [_by_block(body, q), _by_block(body, k), *narrow]


def _by_block(body: Body, x: Value) -> Value:
    """[batch, heads, tokens, dim] in steps of 1/127 of the largest magnitude in each block of tokens."""
    shape, block = body.op("Shape", x), body.int_of("block")
    outer, tokens, dim = (body.op("Slice", shape, body.ints(a), body.ints(b)) for a, b in ((0, 2), (2, 3), (3, 4)))
    short = body.op("Mod", body.op("Sub", body.ints(0), tokens), block)  # of a whole last block
    padded = body.op("Pad", x, body.concat(body.ints(0, 0, 0, 0, 0, 0), short, body.ints(0)))
    blocks = body.op("Reshape", padded, body.concat(outer, body.ints(-1), body.op("Mul", block, dim)))
    step = body.op("Div", body.largest(body.op("Abs", blocks)), body.op("CastLike", body.scalar(LEVELS), x))
    zero, one = (body.op("CastLike", body.scalar(number), x) for number in (0, 1))
    levels = body.op("Round", body.op("Div", blocks, body.op("Where", body.op("Equal", step, zero), one, step)))
    return body.op("Slice", body.op("Reshape", body.op("Mul", levels, step), body.op("Shape", padded)), body.ints(0), tokens, body.ints(2))


def _repeated(body: Body, x: Value) -> Value:
    """[batch, kv_heads, tokens, dim] with each head as often as there are heads of q that it serves."""
    shape, heads = body.op("Shape", x), body.op("Shape", body.inputs["q"], start=1, end=2)
    batch, kv_heads, rest = (body.op("Slice", shape, body.ints(a), body.ints(b)) for a, b in ((0, 1), (1, 2), (2, 4)))
    wide = body.concat(batch, kv_heads, body.op("Div", heads, kv_heads), rest)
    spread = body.op("Expand", body.op("Unsqueeze", x, body.ints(2)), wide)
    return body.op("Reshape", spread, body.concat(batch, heads, rest))


def _earlier(body: Body, tokens: Value) -> Value:
    """bool[tokens, tokens], true where the key is not later than the query."""
    at = _range(body, tokens)
    return body.op("LessOrEqual", at, body.op("Reshape", at, body.ints(-1, 1)))


def _mask(body: Body, tokens: Value) -> Value:
    """bool[heads, tokens, tokens], true where a block is kept."""
    keep = body.inputs["keep"]
    bits = (np.arange(256)[:, None] >> np.arange(8) & 1).astype(bool)
    blocks = body.op("Gather", body.tensor(bits), body.op("Cast", keep, to=int(ir.DataType.INT32)), axis=0)
    rows = body.op("Reshape", blocks, body.concat(body.op("Shape", keep, end=2), body.ints(-1)))
    block_of = body.op("Div", _range(body, tokens), body.int_of("block"))
    return body.op("Gather", body.op("Gather", rows, block_of, axis=1), block_of, axis=2)


def _taken(body: Body, x: Value, places: Value) -> Value:
    """[batch, heads, tokens, dim] with its rows [heads · tokens] taken from `places`."""
    shape = body.op("Shape", x)
    rows = body.op("Reshape", x, body.concat(body.ints(0, -1), body.op("Slice", shape, body.ints(3), body.ints(4))))
    return body.op("Reshape", body.op("Gather", rows, places, axis=1), shape)


def _inverse(body: Body, places: Value) -> Value:
    count = body.op("Shape", places)
    return body.op("ScatterElements", places, places, _range(body, count), axis=0)


def _range(body: Body, count: Value) -> Value:
    """0 to count[1] - 1."""
    return body.op("Range", body.scalar(0), body.op("Squeeze", count), body.scalar(1))


def _each(body: Body, row: Value, heads: Value) -> Value:
    """int64[n] → [heads, n]"""
    return body.op("Expand", row, body.concat(heads, body.op("Shape", row)))
