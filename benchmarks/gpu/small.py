"""Every kernel on small shapes with odd sizes, against float64: what compute-sanitizer looks at, which is slow.

    python -m benchmarks.gpu.small --build --cache DIR      # without a GPU; then carry DIR to a machine with one
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck python -m benchmarks.gpu.small --cache DIR

racecheck counts the named barriers of `group_decode` with 32 and 64 tokens wrongly where slices of the depth have different numbers of
pieces: between the accesses that it reports there stands a barrier of the whole block.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from benchmarks.gpu.layers import Case, made
from sparsecc.attention.base import BlockMap, Grid, required
from sparsecc.codegen.cuda import blocks, operator
from sparsecc.codegen.cuda.alone import KINDS, AloneSpec
from sparsecc.codegen.cuda.arch import arch
from sparsecc.codegen.cuda.blob import offsets
from sparsecc.codegen.cuda.built import Builder
from sparsecc.codegen.cuda.kernel import AttentionSpec, BlockAttentionSpec, LinearSpec, NormSpec, Weights
from sparsecc.codegen.cuda.kernels import kernel_of, kernels_of, module_of
from sparsecc.codegen.cuda.plan import Plan, Step
from sparsecc.codegen.cuda.unpacking import packed, values

_HERE = arch("sm_90a")
_FORMS = (
    "2:4",
    "2:4 int8",
    "2:4 e4m3",
    "sparse",
    "int4 g32",
    "int4 g128 zeros",
    "2:4 int4 g64",
    "2:4 int4 g128 zeros",
    "int8 g128",
    "int8",
)
_ALONE: tuple[AloneSpec, ...] = (
    AttentionSpec(2, 8, 2, 3, 77, 64, 0.2, masked=True),
    AttentionSpec(1, 8, 2, 1, 600, 128, 0.1, masked=True),
    AttentionSpec(1, 16, 1, 1, 1000, 128, 0.1, "float16"),
    AttentionSpec(3, 4, 4, 5, 17, 64, 0.2, "float16", masked=True),
    *(
        BlockAttentionSpec(2, 4, kv_heads, tokens, 64, 0.2, block, causal=causal, ordered=ordered)
        for block in (64, 128)
        for tokens, kv_heads in ((60, 4), (321, 2), (370, 1))
        for causal, ordered in ((False, False), (True, False), (False, True))
    ),
    BlockAttentionSpec(1, 3, 3, 700, 128, 0.1, 64, "float16"),
    BlockAttentionSpec(1, 4, 2, 1500, 128, 0.1, 128, ordered=True, tokens_first="V"),
    BlockAttentionSpec(2, 2, 2, 1536, 64, 0.1, 128, tokens_first="QKV"),
    BlockAttentionSpec(2, 4, 2, 1500, 128, 0.1, 128, tokens_first="QV"),
    BlockAttentionSpec(2, 4, 2, 1500, 64, 0.1, 64, tokens_first="K", causal=True),
    *(BlockAttentionSpec(2, 4, 2, tokens, 64, scale, 128, ordered=tokens < 700, masked=True) for tokens, scale in ((321, 0.3), (700, 1.0))),
    BlockAttentionSpec(2, 4, 2, 1500, 128, 128**-0.5, 64, causal=True, masked=True),
    *(
        BlockAttentionSpec(2, 4, 2, tokens, depth, 0.2, block, dtype, causal, ordered, int8=True)
        for block in (64, 128)
        for tokens, depth, dtype in ((60, 64, "bfloat16"), (321, 128, "float16"), (1370, 64, "bfloat16"))
        for causal, ordered in ((False, False), (True, False), (False, True))
    ),
    BlockAttentionSpec(2, 4, 2, 700, 64, 0.3, 128, ordered=True, masked=True, tokens_first="QKV", int8=True),
    BlockAttentionSpec(2, 4, 2, 1500, 128, 128**-0.5, 64, causal=True, masked=True, tokens_first="V", int8=True),
    NormSpec(3, 1000, 1e-5),
    NormSpec(64, 8, 1e-5, "float16"),
)
_TOLERANCE = 2e-2  # of the largest output, in bfloat16
_CLUSTERED = ("splits", "split", "cluster")  # knobs that make blocks share work


def linears() -> Iterator[tuple[LinearSpec, str, Any]]:
    """Specs with their number of tokens, kernels, and knobs: the first of each space, and the first with a cluster."""
    for form in _FORMS:
        odd = LinearSpec(form, 200, 520 if form in ("2:4", "sparse") else 640, 0)
        whole = LinearSpec(form, 272, 1024, 0, gated=True, activation="silu", bias=True, residual=True)
        for spec in (odd, whole):
            for name, kernel in kernels_of(form).items():
                for tokens in kernel.tokens:
                    space = kernel.space(one := replace(spec, tokens=tokens), _HERE)
                    clustered = [knobs for knobs in space if any(getattr(knobs, field, 1) > 1 for field in _CLUSTERED)]
                    for knobs in dict.fromkeys([*space[:1], *clustered[:1]]):
                        yield one, name, knobs


def linear_plan(spec: LinearSpec, name: str, knobs: Any, builder: Builder) -> Plan:
    step = Step(spec.tokens, name, str(knobs), {_HERE.name: builder.linear(name, spec, knobs, _HERE)})
    any_tokens = replace(spec, tokens=0)
    return Plan(any_tokens, offsets(kernel_of(spec.form).parts(any_tokens)), (step,), {_HERE.name: builder.expand(spec, _HERE)})


def alone_plan(spec: AloneSpec, builder: Builder) -> Plan:
    name = KINDS[type(spec)].kernel
    knobs = module_of(name).space(spec, _HERE)[0]
    return Plan(spec, {}, (Step(spec.tokens, name, str(knobs), {_HERE.name: builder.single(name, spec, knobs, _HERE)}),), {})


def weights(spec: LinearSpec, device: torch.device) -> Weights:
    """Pruned by magnitude, in the form's numbers; with zero points random ones."""
    form = spec.form.removesuffix(" zeros")
    found = made(Case("", form, spec.rows, spec.depth, {}, 0.6 if form == "sparse" else 0.0), device)
    if form == spec.form:
        return found
    assert found.scales is not None
    zeros = torch.randint(-7, 7, found.scales.shape, device=device, dtype=torch.int8)
    numbers = torch.randint(-8, 8, found.numbers.shape, device=device, dtype=torch.int8)
    if form.startswith("2:4"):  # what is left out is worth nothing: the zero point itself
        kept = torch.arange(spec.depth, device=device) % 4 < 2
        numbers = numbers.where(kept, zeros.repeat_interleave(spec.depth // zeros.shape[1], 1))
    return Weights(numbers, found.scales, zeros)


def linear_errors(spec: LinearSpec, plan: Plan, device: torch.device) -> Iterator[tuple[int, float]]:
    """For numbers of tokens, how far outputs are off, relative to the largest."""
    held, key = weights(spec, device), operator.register(plan)
    dense, weight = values(held, spec.form).double(), packed(replace(spec, tokens=0), held)
    bias = torch.randn(spec.rows, device=device, dtype=torch.bfloat16) if spec.bias else None
    for tokens in sorted({spec.tokens, max(1, spec.tokens - 3)}):
        x = torch.randn(tokens, spec.depth, device=device, dtype=torch.bfloat16)
        residual = torch.randn(tokens, spec.outputs, device=device, dtype=torch.bfloat16) if spec.residual else None
        y = operator.linear_cuda(x, weight, bias, residual, key)
        wide = [None if tensor is None else tensor.double() for tensor in (bias, residual)]
        expected = operator.epilogue(spec, functional.linear(x.double(), dense, wide[0]), wide[1])
        yield tokens, float((y.double() - expected).abs().max() / expected.abs().max())


def attended(spec: BlockAttentionSpec, device: torch.device) -> tuple[torch.Tensor | None, ...]:
    """q, k and v, and a random map as the kernel reads it."""
    grid = Grid(3, 5, spec.tokens // 15, spec.tokens % 15)
    count = grid.blocks(spec.block)
    keep = (torch.rand(spec.heads, count, count) < 0.4) | required(grid, spec.block)
    orders = torch.arange(spec.heads, dtype=torch.uint8) % 6 if spec.ordered else None
    packed = blocks.pack(BlockMap(grid, spec.block, orders, keep.tril() if spec.causal else keep, spec.causal), spec.batch)
    seen = torch.rand(spec.batch, 1, 1, spec.tokens, device=device) < 0.7 if spec.masked else None
    if seen is not None:  # as padding is: whole tiles that are hidden come first in a list
        seen[..., spec.tokens // 2 :] = False
        seen[1:] &= spec.tokens < 700  # and perhaps a sequence that sees nothing
    return (*blocks.example(spec, device), *(None if tensor is None else tensor.to(device) for tensor in packed), seen)


def masks(queries: int, keys: int, device: torch.device) -> list[torch.Tensor]:
    """All keys, the first third and the last one, some, some of which one query sees none, and one row for all queries."""
    first = torch.arange(keys, device=device).expand(queries, keys) < keys // 3
    some = torch.rand(queries, keys, device=device) < 0.3
    none = some.clone()
    none[0] = False
    ends = first.clone()
    ends[:, -1] = True
    return [torch.ones_like(some), ends, some, none, ends[:1]]


def alone_errors(spec: AloneSpec, plan: Plan, device: torch.device) -> Iterator[float]:
    """For some inputs, how far outputs are off, relative to the largest."""
    kind, key = KINDS[type(spec)], operator.register(plan)
    example = attended(spec, device) if isinstance(spec, BlockAttentionSpec) else kind.example(spec, device)
    every = [example]
    if isinstance(spec, AttentionSpec) and spec.masked:
        every = [(*example[:-1], mask) for mask in masks(spec.queries, spec.keys, device)]
    for inputs in every:
        wide = [tensor.double() if tensor is not None and tensor.is_floating_point() else tensor for tensor in inputs]
        expected = kind.meaning(spec, *wide)
        largest = expected.abs().max().clamp(min=1e-6)  # all are zeros where nothing is seen
        yield float((kind.operator(*inputs, key).double() - expected).abs().max() / largest)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/sparsecc/cuda").expanduser())
    options = parser.parse_args()
    builder = Builder(options.cache)
    layers = [(spec, linear_plan(spec, name, knobs, builder)) for spec, name, knobs in linears()]
    others = [(spec, alone_plan(spec, builder)) for spec in _ALONE]
    if options.build:
        return
    device = torch.device("cuda", torch.cuda.current_device())
    found = [(spec, plan, error) for spec, plan in layers for _, error in linear_errors(spec, plan, device)]
    found += [(spec, plan, error) for spec, plan in others for error in alone_errors(spec, plan, device)]
    wrong = [(spec, plan, error) for spec, plan, error in found if not error < _TOLERANCE]
    for spec, plan, error in wrong:
        print(f"WRONG by {error:.1e}: {spec}, {plan.steps[0].kernel}, {plan.steps[0].knobs}")
    print(f"{len(found)} calls of {len(layers) + len(others)} kernels, {len(wrong)} wrong")
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
