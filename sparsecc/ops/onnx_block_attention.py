"""The ONNX meaning of block_attention: one function of standard operators in domain `ai.sparsecc`. A node reads

    BlockAttention(q, k, v, orders uint8[heads], keep uint8[heads, blocks, ⌈blocks/8⌉])  {grid, text_first, block, scale, site}

with eight blocks of keep in a byte, the first in the lowest bit, and grid = frames, height, width, text tokens. The body brings q, k
and v into each head's order, computes the whole map, hides what is not kept, and brings the result back. It is right rather than
fast: a stock onnxruntime spends what dense attention takes, and a mask of heads · tokens² bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from sparsecc.attention.base import AXIS_ORDERS, BlockMap, Grid, pack_bits, unpack_bits
from sparsecc.ops.base import ONNX_DOMAIN
from sparsecc.ops.onnx_functions import Body, Call, Value

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.ops.block_attention import BlockAttention

OP_TYPE = "BlockAttention"
INPUTS = ("q", "k", "v", "orders", "keep")


def is_block_attention(node: ir.Node) -> bool:
    return node.domain == ONNX_DOMAIN and node.op_type == OP_TYPE


def call(op: BlockAttention, site: str) -> Call:
    """The node that stands in the place of a site."""
    grid = op.map.grid
    sizes = {"grid": [*grid.axes, grid.text_tokens], "text_first": int(grid.text_first), "block": op.map.block}
    return Call(OP_TYPE, {**sizes, "scale": op.scale, "site": site})


def stored(block_map: BlockMap) -> dict[str, Tensor]:
    """The constant inputs of a node by name."""
    return {"orders": block_map.orders, "keep": pack_bits(block_map.keep)}


def restore(node: ir.Node, orders: Tensor, keep: Tensor) -> BlockMap:
    """The map of a node with these constant inputs. Raises KeyError, TypeError or ValueError for a node that sparsecc did not write."""
    frames, height, width, text = node.attributes["grid"].as_ints()
    grid = Grid(frames, height, width, text, bool(node.attributes["text_first"].as_int()))
    block = node.attributes["block"].as_int()
    return BlockMap(grid, block, orders, unpack_bits(keep, grid.blocks(block)))


def function(opset: int) -> ir.Function:
    """What a BlockAttention node calls. opset: the model's, at least onnx_functions.MIN_OPSET."""
    body = Body(INPUTS)
    q, k, v = (body.inputs[name] for name in INPUTS[:3])
    tokens, places = _places(body)
    scale = body.op("Constant", value_float=body.forward("value_float", "scale", ir.AttributeType.FLOAT))
    q, k, reordered = (_taken(body, x, places) for x in (q, k, v))
    scores = body.op("Mul", body.op("MatMul", q, body.op("Transpose", k, perm=[0, 1, 3, 2])), body.op("CastLike", scale, q))
    nothing = body.op("CastLike", body.tensor(np.array(-np.inf, np.float32)), scores)
    seen = body.op("Softmax", body.op("Where", _mask(body, tokens), scores, nothing), axis=-1)
    output = _taken(body, body.op("MatMul", seen, reordered), _inverse(body, places))
    return body.function(OP_TYPE, output, opset, {"site": ir.AttributeType.STRING})


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
