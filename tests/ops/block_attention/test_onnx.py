"""The function's body against the reference, in a stock onnxruntime."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from sparsecc.attention.base import AXIS_ORDERS, BlockMap, Grid, required
from sparsecc.attention.rounding import Precision
from sparsecc.ops.block_attention import onnx as block_attention
from sparsecc.ops.block_attention.onnx import Kind
from sparsecc.ops.block_attention.torch import BlockAttention
from tests.graph import onnx_models as models
from tests.tolerance import assert_close

GRIDS = [Grid(2, 3, 4), Grid(2, 3, 4, 5), Grid(3, 7, 5, 2, text_first=False), Grid(1, 1, 1), Grid(5, 9, 8, 11)]


def some_op(grid: Grid, block: int = 4, heads: int = 6) -> BlockAttention:
    blocks = grid.blocks(block)
    keep = torch.rand(heads, blocks, blocks, generator=torch.Generator().manual_seed(grid.tokens)) < 0.4
    orders = torch.arange(heads).remainder(len(AXIS_ORDERS)).to(torch.uint8)
    return BlockAttention(BlockMap(grid, block, orders, keep | required(grid, block)), 0.25)


def model_of(
    op: BlockAttention, opset: int = 18, ir_version: int = 8, dtype: int = TensorProto.FLOAT, mask: list[int] | None = None
) -> onnx.ModelProto:
    """One node that calls the function. mask: its shape."""
    call, stored = block_attention.call(op, "here", mask is not None), block_attention.stored(op.map)
    node = helper.make_node(call.op_type, [*"qkv", *(["mask"] if mask else []), *stored], ["y"], domain="ai.sparsecc", **call.attributes)
    shape = ["batch", op.map.heads, op.map.grid.tokens, "dim"]
    inputs = [helper.make_tensor_value_info(name, dtype, ["batch", heads, *shape[2:]]) for name, heads in zip("qkv", kv(op), strict=True)]
    inputs += [helper.make_tensor_value_info("mask", dtype, mask)] if mask else []
    weights = [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in stored.items()]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", dtype, [None] * 4)], weights)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.sparsecc", 1)]
    functions = [ir.serde.serialize_function(block_attention.function(call.op_type, opset))]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, functions=functions)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def kv(op: BlockAttention) -> tuple[int, int, int]:
    """Heads of q, k and v."""
    shared = op.map.heads // 2 if op.grouped else op.map.heads
    return op.map.heads, shared, shared


def check(op: BlockAttention, precision: torch.dtype = torch.float32, **versions: Any) -> None:
    q, k, v = (torch.randn(2, heads, op.map.grid.tokens, 8).to(precision) for heads in kv(op))
    ours = models.run(model_of(op, **versions), q=q.numpy(), k=k.numpy(), v=v.numpy())[0]
    assert_close(torch.from_numpy(ours), op.reference(q, k, v).contiguous())


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("block", [1, 4, 64])
def test_every_order_and_length(grid: Grid, block: int) -> None:
    check(some_op(grid, block))


@pytest.mark.parametrize(("opset", "ir_version"), [(16, 8), (19, 9), (21, 10), (24, 11)])
def test_the_body_fits_every_opset(opset: int, ir_version: int) -> None:
    check(some_op(GRIDS[1]), opset=opset, ir_version=ir_version)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("kind", ["in_order", "permuted", "causal"])
@pytest.mark.parametrize(("opset", "ir_version"), [(16, 8), (24, 11)])
def test_other_orders_causal_and_shared_keys(kind: str, grouped: bool, opset: int, ir_version: int) -> None:
    grid = Grid.line(11, 2)
    keep = (torch.rand(6, 3, 3, generator=torch.Generator().manual_seed(5)) < 0.3) | required(grid, 4)
    orders = torch.stack([torch.cat([torch.arange(2), 2 + torch.randperm(9)]) for _ in range(6)]).int() if kind == "permuted" else None
    causal = kind == "causal"
    op = BlockAttention(BlockMap(grid, 4, orders, keep.tril() if causal else keep, causal), 0.25, grouped)
    found = Kind.of(block_attention.call(op, "here").op_type)
    assert found == Kind("permuted" if orders is not None else "in_order", causal, grouped)
    check(op, opset=opset, ir_version=ir_version)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_mask_is_added_and_a_query_without_keys_gives_zero(grouped: bool) -> None:
    grid = Grid.line(11)
    keep = (torch.rand(6, 3, 3, generator=torch.Generator().manual_seed(5)) < 0.3) | required(grid, 4)
    op = BlockAttention(BlockMap(grid, 4, None, keep), 0.25, grouped)
    mask = torch.randn(2, 1, 11, 11).masked_fill(torch.rand(2, 1, 11, 11) < 0.5, -torch.inf)
    q, k, v = (torch.randn(2, heads, 11, 8) for heads in kv(op))
    proto = model_of(op, mask=[2, 1, 11, 11])
    ours = models.run(proto, q=q.numpy(), k=k.numpy(), v=v.numpy(), mask=mask.numpy())[0]
    assert_close(torch.from_numpy(ours), op.reference(q, k, v, mask).contiguous())


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize(("opset", "ir_version"), [(16, 8), (24, 11)])
@pytest.mark.parametrize("kind", ["", "in_order", "causal"])
def test_a_precision_rounds_what_enters(kind: str, precision: Precision, opset: int, ir_version: int) -> None:
    op = replace(some_op(GRIDS[2] if kind == "" else Grid.line(32), 5), precision=precision)
    if kind:
        keep = op.map.keep.tril() if kind == "causal" else op.map.keep
        op = replace(op, map=BlockMap(op.map.grid, 5, None, keep, kind == "causal"), grouped=True)
    assert Kind.of(block_attention.call(op, "here").op_type).precision == precision
    check(op, opset=opset, ir_version=ir_version)


def test_a_name_that_no_function_has() -> None:
    assert [Kind.of(name).op_type for name in ("BlockAttention", "BlockAttention_in_order_causal")] == [
        "BlockAttention", "BlockAttention_in_order_causal",
    ]  # fmt: skip
    with pytest.raises(TypeError, match="there is no BlockAttention_backwards"):
        Kind.of("BlockAttention_backwards")


def test_other_precisions() -> None:
    check(some_op(GRIDS[1]), torch.float64, dtype=TensorProto.DOUBLE)


def test_a_node_says_its_map() -> None:
    op = some_op(GRIDS[2], 8)
    call, stored = block_attention.call(op, "here"), block_attention.stored(op.map)
    node = ir.node(call.op_type, [], call.attributes, domain="ai.sparsecc")
    assert block_attention.is_block_attention(node)
    found = block_attention.restore(call.attributes, [stored["orders"], stored["keep"]])
    assert (found.grid, found.block) == (op.map.grid, op.map.block)
    assert torch.equal(found.keep, op.map.keep)
    with pytest.raises(ValueError, match="keep is"):
        block_attention.restore(call.attributes, [stored["orders"], stored["keep"][:1]])
