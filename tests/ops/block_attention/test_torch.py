"""block_attention against dense attention with the same mask; traced, exported, trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc.attention.base import BlockMap, Grid, required
from sparsecc.attention.rounding import Precision, rounded_tokens, rounded_values
from sparsecc.ops.block_attention.torch import BlockAttention, reference, relative_error
from tests.tolerance import assert_close

GRIDS = [Grid(2, 3, 4), Grid(2, 3, 4, 5), Grid(3, 1, 5, 2, text_first=False), Grid(1, 1, 1)]
BLOCK, HEADS, DIM = 4, 3, 8
every_grid = pytest.mark.parametrize("grid", GRIDS, ids=str)


def some_map(grid: Grid, density: float = 0.4) -> BlockMap:
    generator = torch.Generator().manual_seed(grid.tokens)
    blocks = grid.blocks(BLOCK)
    keep = torch.rand(HEADS, blocks, blocks, generator=generator) < density
    return BlockMap(grid, BLOCK, torch.tensor([5, 0, 3], dtype=torch.uint8), keep | required(grid, BLOCK))


def inputs(grid: Grid, dtype: torch.dtype = torch.float32, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(batch, HEADS, grid.tokens, DIM, generator=generator).to(dtype) for _ in range(3))
    return q, k, v


def mask(block_map: BlockMap) -> Tensor:
    """bool[heads, tokens, tokens] in the model's order of tokens: the same map, said in the most obvious way."""
    grid, block = block_map.grid, block_map.block
    seen = torch.zeros(block_map.heads, grid.tokens, grid.tokens, dtype=torch.bool)
    for head in range(block_map.heads):
        token = block_map.places()[head].tolist()
        for i in range(grid.tokens):
            for j in range(grid.tokens):
                seen[head, token[i], token[j]] = block_map.keep[head, i // block, j // block]
    return seen


class Attending(nn.Module):
    """An attention as a rewritten graph holds it."""

    keep: Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.op = BlockAttention(some_map(grid), 0.3)
        for name, tensor in self.op.tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        call = self.op.torch_call("attn")
        return call.target(q, k, v, self.orders, self.keep, *call.options)


@every_grid
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_it_is_dense_attention_with_the_same_mask(grid: Grid, dtype: torch.dtype) -> None:
    q, k, v = inputs(grid, dtype)
    expected = functional.scaled_dot_product_attention(q.double(), k.double(), v.double(), mask(some_map(grid)), scale=0.3).to(dtype)
    assert_close(Attending(grid)(q, k, v), expected)
    assert_close(Attending(grid).op.reference(q, k, v), expected)


def other_op(kind: str) -> BlockAttention:
    """Of two heads of keys for four of queries, in the model's order and causal, or each in one of its own."""
    grid = Grid.line(11, 2)
    keep = torch.rand(4, 3, 3, generator=torch.Generator().manual_seed(5)) < 0.3
    if kind == "causal":
        keep = keep.tril() | required(grid, BLOCK, causal=True)
        return BlockAttention(BlockMap(grid, BLOCK, None, keep, causal=True), 0.3, grouped=True)
    order = torch.stack([torch.cat([torch.arange(2), 2 + torch.randperm(9)]) for _ in range(4)]).int()
    return BlockAttention(BlockMap(grid, BLOCK, order, keep | required(grid, BLOCK)), 0.3, grouped=True)


@pytest.mark.parametrize("kind", ["causal", "permuted"])
def test_other_orders_causal_and_shared_keys(kind: str) -> None:
    """Outputs and gradients, against a mask of tokens."""
    op = other_op(kind)
    places = op.map.places().argsort(1) // BLOCK
    seen = torch.stack([kept[blocks][:, blocks] for kept, blocks in zip(op.map.keep, places, strict=True)])
    seen = seen.tril() if kind == "causal" else seen
    ours, theirs = ([torch.randn(2, heads, 11, DIM, generator=torch.Generator().manual_seed(heads)) for heads in (4, 2, 2)] for _ in "ab")
    for x in (*ours, *theirs):
        x.requires_grad_()
    call = op.torch_call("attn")
    actual = call.target(*ours, op.tensors.get("orders"), op.tensors["keep"], *call.options)
    wide = (x.repeat_interleave(2, 1) for x in theirs[1:])
    expected = functional.scaled_dot_product_attention(theirs[0], *wide, attn_mask=seen, scale=0.3)
    assert_close(actual, expected)
    for y in (actual, expected):
        y.square().sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad is not None and b.grad is not None
        assert_close(a.grad, b.grad)


@pytest.mark.parametrize("kind", ["causal", "permuted"])
@pytest.mark.parametrize("shape", [(11,), (11, 11), (2, 1, 1, 11), (1, 4, 11, 11)])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_a_mask_hides_keys_in_the_models_order_and_a_query_without_keys_gives_zero(
    kind: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    op, generator = other_op(kind), torch.Generator().manual_seed(len(shape))
    hidden = torch.rand(shape, generator=generator) < 0.5
    mask = ~hidden if dtype == torch.bool else torch.randn(shape, generator=generator).masked_fill(hidden, -torch.inf)
    q, k, v = (torch.randn(2, heads, 11, DIM, generator=generator) for heads in (4, 2, 2))
    at = op.map.places().argsort(1) // BLOCK
    seen = torch.stack([kept[blocks][:, blocks] for kept, blocks in zip(op.map.keep, at, strict=True)])
    seen = seen.tril() if kind == "causal" else seen
    scores = 0.3 * q @ k.repeat_interleave(2, 1).mT
    scores = scores.masked_fill(~mask, -torch.inf) if dtype == torch.bool else scores + mask
    expected = scores.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num(0) @ v.repeat_interleave(2, 1)
    call = op.torch_call("attn")
    options = call.options if op.map.causal else (*call.options, False)
    assert_close(call.target(q, k, v, op.tensors.get("orders"), op.tensors["keep"], *options, mask), expected)


def test_a_mask_has_no_gradient_and_says_so() -> None:
    op = other_op("causal")
    call, mask = op.torch_call("attn"), torch.zeros(11, 11, requires_grad=True)
    q, k, v = (torch.randn(1, heads, 11, DIM, requires_grad=True) for heads in (4, 2, 2))
    y = call.target(q, k, v, None, op.tensors["keep"], *call.options, mask)
    with pytest.raises(RuntimeError, match="no gradient of its mask"):
        y.sum().backward()
    call.target(q, k, v, None, op.tensors["keep"], *call.options, mask.detach()).sum().backward()
    assert q.grad is not None and q.grad.isfinite().all()


def test_torch_accepts_the_operator_without_orders() -> None:
    op = other_op("causal")
    call = op.torch_call("attn")
    arguments = tuple(torch.randn(2, heads, 11, DIM, requires_grad=True) for heads in (4, 2, 2))
    torch.library.opcheck(call.target, (*arguments, None, op.tensors["keep"], *call.options))


def test_heads_that_do_not_share_evenly_are_refused() -> None:
    op = other_op("causal")
    call = op.torch_call("attn")
    q, k = torch.randn(1, 4, 11, DIM), torch.randn(1, 3, 11, DIM)
    with pytest.raises(RuntimeError, match="attention 'attn': 3 heads of keys and 3 of values cannot serve 4"):
        call.target(q, k, k, None, op.tensors["keep"], *call.options)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("kind", ["causal", "permuted"])
def test_a_precision_rounds_what_enters_as_a_kernel_reads_it(kind: str, precision: Precision) -> None:
    """In blocks of each head's order, keys that heads share in each head's own; gradients are those at the rounded inputs."""
    op = replace(other_op(kind), precision=precision)
    generator = torch.Generator().manual_seed(2)
    q, k, v = ours = [torch.randn(2, heads, 11, DIM, generator=generator) for heads in (4, 2, 2)]
    queries = torch.stack([rounded_tokens(q[:, head], op.map.places()[head], BLOCK, precision) for head in range(4)], 1)
    keys = torch.stack([rounded_tokens(k[:, head // 2], op.map.places()[head], BLOCK, precision) for head in range(4)], 1)
    theirs = [queries, keys, rounded_values(v, precision).repeat_interleave(2, 1)]
    for x in (*ours, *theirs):
        x.requires_grad_()
    plain, call = replace(op, precision="float32", grouped=False).torch_call("attn"), op.torch_call("attn")
    actual = call.target(*ours, op.tensors.get("orders"), op.tensors["keep"], *call.options)
    exact = plain.target(*theirs, op.tensors.get("orders"), op.tensors["keep"], *plain.options)
    assert_close(actual, exact)
    assert not torch.equal(actual, reference(q, k, v, op.map, op.scale))
    for y in (actual, exact):
        y.square().sum().backward()
    assert q.grad is not None and k.grad is not None and queries.grad is not None and keys.grad is not None
    assert_close(q.grad, queries.grad)
    assert_close(k.grad, keys.grad.unflatten(1, (2, 2)).sum(2))
    torch.library.opcheck(call.target, (*ours, op.tensors.get("orders"), op.tensors["keep"], *call.options))


@every_grid
def test_gradients_are_those_of_dense_attention_with_the_same_mask(grid: Grid) -> None:
    module, seen, dense = Attending(grid), mask(some_map(grid)), inputs(grid)
    ours = tuple(x.clone().requires_grad_() for x in dense)
    theirs = tuple(x.clone().requires_grad_() for x in dense)
    module(*ours).square().sum().backward()
    q, k, v = theirs
    functional.scaled_dot_product_attention(q, k, v, seen, scale=0.3).square().sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad is not None and b.grad is not None
        assert_close(a.grad, b.grad)


def test_gradients_by_differences() -> None:
    grid = Grid(1, 2, 3, 1)
    arguments = tuple(x.requires_grad_() for x in inputs(grid, torch.float64, batch=1))
    assert torch.autograd.gradcheck(Attending(grid), arguments)


def test_torch_accepts_the_operator() -> None:
    module, call = Attending(GRIDS[1]), Attending(GRIDS[1]).op.torch_call("attn")
    arguments = tuple(x.requires_grad_() for x in inputs(GRIDS[1]))
    torch.library.opcheck(call.target, (*arguments, module.orders, module.keep, *call.options))


@pytest.mark.parametrize("strict", [True, False])
def test_export_keeps_it_whole_and_the_batch_free(strict: bool) -> None:
    module, q = Attending(GRIDS[1]), inputs(GRIDS[1])
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(module, q, dynamic_shapes=(batch, batch, batch), strict=strict)
    assert "sparsecc.block_attention" in str(program.graph)
    again = inputs(GRIDS[1], batch=5)
    assert torch.equal(program.module()(*again), module(*again))


def test_compiled_training_step() -> None:
    module = Attending(GRIDS[1])
    ours = tuple(x.requires_grad_() for x in inputs(GRIDS[1]))
    torch.compile(module, backend="aot_eager", fullgraph=True)(*ours).sum().backward()
    eager = tuple(x.requires_grad_() for x in inputs(GRIDS[1]))
    module(*eager).sum().backward()
    for a, b in zip(ours, eager, strict=True):
        assert a.grad is not None and b.grad is not None
        assert_close(a.grad, b.grad)


def test_the_output_lies_with_tokens_outermost_as_torchs_own_does_after_projections() -> None:
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs(GRIDS[1]))
    assert Attending(GRIDS[1])(q, k, v).stride() == functional.scaled_dot_product_attention(q, k, v).stride()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 28, 8), "attention 'attn' has a block map for 29 tokens, it is given 28"),
        ((2, 4, 29, 8), "attention 'attn' has 3 heads, its input 4"),
        ((2, 29, 24), "attention 'attn' takes .batch, heads, tokens, head_dim."),
    ],
)
def test_wrong_shapes_are_refused_when_run_and_when_traced(shape: tuple[int, ...], message: str) -> None:
    arguments = (torch.randn(shape),) * 3
    with pytest.raises(RuntimeError, match=message):
        Attending(GRIDS[1])(*arguments)
    with pytest.raises(Exception, match=message):
        torch.export.export(Attending(GRIDS[1]), arguments, strict=False)


def test_tensors_that_contradict_each_other_are_refused() -> None:
    module = Attending(GRIDS[1])
    module.keep = module.keep[:, :-1]
    with pytest.raises(ValueError, match="keep is"):
        module(*inputs(GRIDS[1]))


def test_relative_error() -> None:
    grid = GRIDS[1]
    q, k, v = inputs(grid)
    full = BlockMap(grid, BLOCK, torch.zeros(HEADS, dtype=torch.uint8), torch.ones_like(some_map(grid).keep))
    assert relative_error(q, k, v, reference(q, k, v, full, 0.3), 0.3) < 1e-6
    dense = functional.scaled_dot_product_attention(q, k, v, scale=0.3)
    sparse = reference(q, k, v, some_map(grid), 0.3)
    assert relative_error(q, k, v, sparse, 0.3) == pytest.approx(float((sparse - dense).norm() / dense.norm()))
    assert relative_error(q, k, torch.zeros_like(v), torch.zeros_like(v), 0.3) == 0.0
