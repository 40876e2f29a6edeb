"""Attention as one kernel that reads the projections where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from sparsecc.attention.base import BlockMap
from sparsecc.attention.dynamic import DynamicMap
from sparsecc.codegen.calls import Calls, Tape
from sparsecc.codegen.choose import Choice, Chooser, Skipping, SkippingWay
from sparsecc.codegen.cpu.forms import Forms
from sparsecc.codegen.cpu.layout import VIEWS, Value, sequence_layout
from sparsecc.codegen.cpu.operators import attention, block_attention, gather_blocks, group_tokens, pair_tokens
from sparsecc.codegen.cpu.operators.block_attention import BlockAttentionSpec
from sparsecc.codegen.cpu.operators.group_tokens import GroupSpec
from sparsecc.codegen.cpu.operators.pair_tokens import PairSpec
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.recognize.program import AttentionCall, BlockAttentionCall, Expr, Layer, Node, Program, shape
from sparsecc.codegen.tvm_api import relax


def emit_attention(forms: Forms, target: Target, node: Node, call: AttentionCall) -> Value:
    batch, heads, queries, dim = shape(call.q)
    kv_heads, keys, value_dim = shape(call.v)[1:]
    q_layout, k_layout = (sequence_layout(batch, tokens, target.lanes) for tokens in (queries, keys))
    q, v = forms.heads_tiled(call.q, q_layout, "bhsd"), forms.heads_tiled(call.v, k_layout, "bhsd")
    k = forms.heads_tiled(call.k, k_layout, "bhds" if call.keys_transposed else "bhsd")
    dtype = _dtype(forms.program, target, call)
    if dtype == "bfloat16":
        q, k = (_grouped(forms, target, x) for x in (q, k))
        pairs = PairSpec(batch, keys, kv_heads * value_dim, k_layout.tile)
        pair = forms.kernel(pairs, lambda: pair_tokens.build(pairs, target))
        v = forms.call_for_several(pair, [v], [(pairs.y_shape, "int32")])[0]
    mask = relax.const(0.0, "float32") if call.mask is None else _mask(forms, call.mask, keys)
    mask_shape = None if call.mask is None else shape(mask)
    spec = attention.AttentionSpec(
        *(batch, heads, kv_heads, queries, keys, dim, value_dim, q_layout.tile, k_layout.tile),
        *(float(call.scale), call.causal, mask_shape, dtype),
    )
    if mask_shape is None:
        mask = forms.op(relax.op.reshape(mask, [1, 1, 1, 1]))
    kernel = forms.kernel(spec, lambda: attention.build(spec, target))
    out = forms.call(kernel, [q, k, v, mask], q_layout.shape(heads * value_dim))
    return Value(shape(node.var), tiled=out, layout=q_layout, heads="bhsd")


def _dtype(program: Program, target: Target, call: AttentionCall) -> str:
    """bfloat16 where q, k and v come from layers that multiply narrow numbers, whose rounding is coarser, and the CPU multiplies it."""
    narrow = "bfloat16" in target.dot and shape(call.q)[3] % 2 == 0
    return "bfloat16" if narrow and all(_comes_narrow(program, x) for x in (call.q, call.k, call.v)) else "float32"


def _comes_narrow(program: Program, x: Expr) -> bool:
    """Whether x is what a narrow layer computes, seen as heads."""
    node = program.node(x)
    while node is not None and node.op in VIEWS:
        node = program.node(node.args[0])
    return node is not None and isinstance(node.what, Layer) and node.what.dtype != "float32"


def _grouped(forms: Forms, target: Target, x: Expr) -> Expr:
    """[tiles, heads · head_dim, tile] → groups of two of head_dim."""
    tiles, features, tile = shape(x)
    spec = GroupSpec(tiles, features, tile, "bfloat16")
    kernel = forms.kernel(spec, lambda: group_tokens.build(spec, target))
    given = relax.const(np.ones(1, np.float32))
    return forms.call_for_several(kernel, [x, given], spec.outputs)[0]


def emit_block_attention(forms: Forms, chooser: Chooser[Target], node: Node, call: BlockAttentionCall) -> Value:
    target = chooser.target
    if not isinstance(call.map, BlockMap):
        return _emit_chosen(forms, chooser, node, call, call.map)
    batch, heads, tokens, dim = shape(call.q)
    kv_heads, _, value_dim = shape(call.v)[1:]
    places = call.map.places().numpy()
    keep, block = call.map.keep.numpy(), call.map.block
    kept = int(keep.sum())
    masks = [] if call.mask is None else [_mask(forms, call.mask, tokens)]
    spec = BlockAttentionSpec(
        *(batch, heads, kv_heads, tokens, dim, value_dim, block, kept),
        *(float(call.scale), call.map.causal, shape(masks[0]) if masks else None),
    )
    precision = chooser.choose_skipping(_skipping(spec, places, keep, call, target))
    inputs = [forms.natural(x) for x in (call.q, call.k, call.v)]
    return Value(shape(node.var), natural=_attend(forms, rounded(spec, precision, target), places, keep, inputs, masks, target))


def rounded(spec: BlockAttentionSpec, precision: str, target: Target) -> BlockAttentionSpec:
    """int8 is of q and k; what it multiplies with v is bfloat16 where the CPU multiplies it."""
    narrow = precision != "float32" and "bfloat16" in target.dot
    return replace(spec, dtype=precision, values="bfloat16" if narrow else "float32")


def _emit_chosen(forms: Forms, chooser: Chooser[Target], node: Node, call: BlockAttentionCall, found: DynamicMap) -> Value:
    """Blocks that were chosen in this call: heads of all batch items side by side, each with lists of its own. Where lengths are not known
    before, everything is computed, and what is left out is hidden."""
    if call.lists is None:
        said = "no kernel skips as many blocks as scores decide: every block is computed, and what is left out is hidden"
        chooser.choices.append(Choice(call.site, "attention", "dense", None, None, None, said))
        return emit_attention(forms, chooser.target, node, AttentionCall(call.q, call.k, call.v, call.scale, mask=call.mask))  # type: ignore[arg-type]
    batch, heads, tokens, dim = shape(call.q)
    kv_heads, _, value_dim = shape(call.v)[1:]
    counts = found.counts
    assert counts is not None
    stand_in = (torch.arange(counts.shape[1]) < counts[..., None]).repeat(batch, 1, 1).numpy()  # of as many blocks in each row
    places = np.broadcast_to(np.arange(tokens, dtype=np.int32), (batch * heads, tokens))
    spec = BlockAttentionSpec(
        *(1, batch * heads, batch * kv_heads, tokens, dim, value_dim, found.block, int(stand_in.sum())),
        *(float(call.scale), found.causal),
    )
    chooser.choose_skipping(replace(_skipping(spec, places, stand_in, call, chooser.target), apart="choosing blocks"))
    inputs = [_side_by_side(forms, x) for x in (call.q, call.k, call.v)]
    lists = forms.natural(call.lists)
    y = _attend(forms, spec, places, stand_in, inputs, [], chooser.target, lists)
    return Value(shape(node.var), natural=forms.op(relax.op.reshape(y, list(shape(node.var)))))


def _side_by_side(forms: Forms, x: Expr) -> Expr:
    batch, heads, tokens, dim = shape(x)
    return forms.op(relax.op.reshape(forms.natural(x), [1, batch * heads, tokens, dim]))


def _attend(
    calls: Calls,
    spec: BlockAttentionSpec,
    places: np.ndarray,
    keep: np.ndarray,
    inputs: Sequence[Any],
    masks: Sequence[Any],
    target: Target,
    lists: Any = None,
) -> Any:
    """lists: the kept blocks of each row, where `keep` only says how many they are."""
    where, first, blocks, jobs = block_attention.prepare(places, keep, spec, target)
    where, first, jobs = (calls.weight(array) for array in (where, first, jobs))
    tables = [first, calls.weight(blocks) if lists is None else lists, jobs]
    gather = calls.kernel(("gather", spec), lambda: gather_blocks.build(spec, target))
    kernel = calls.kernel(spec, lambda: block_attention.build(spec, target))
    gathered = calls.call_for_several(gather, [*inputs, where], gather_blocks.outputs(spec, target))
    mask = masks[0] if masks else calls.weight(np.zeros((1, 1, 1, 1), np.float32))
    return calls.call(kernel, [*gathered, where, *tables, mask], (spec.batch, spec.heads, spec.tokens, spec.value_dim))


def _skipping(spec: BlockAttentionSpec, places: np.ndarray, keep: np.ndarray, call: BlockAttentionCall, target: Target) -> Skipping:
    """One head of middling density stands for all."""
    full = np.tril(np.ones_like(keep[:1])) if spec.causal else np.ones_like(keep[:1])
    density = float(keep.mean() / full.mean())
    at = int(np.argsort(keep.sum(axis=(1, 2)))[len(keep) // 2])

    def head(precision: str, blocks: np.ndarray, tape: Tape) -> None:
        one = replace(spec, batch=1, heads=1, kv_heads=1, kept=int(blocks.sum()), mask=None)
        random = np.random.default_rng(0)
        dims = (one.head_dim, one.head_dim, one.value_dim)
        inputs = [tape.weight(random.standard_normal((1, 1, one.tokens, dim), np.float32)) for dim in dims]
        _attend(tape, rounded(one, precision, target), places[at : at + 1], blocks, inputs, [], target)

    def way(precision: str) -> SkippingWay:
        found = rounded(spec, precision, target)
        kernel = f"block_attention {spec.block}x{spec.block}" + ("" if call.precision == "float32" else f" {precision}")
        return SkippingWay(kernel, partial(head, precision, keep[at : at + 1]), found.flops, found.gathered_bytes(target))

    known = [precision for precision in (call.precision, "float32") if precision == "float32" or precision in target.dot]
    return Skipping(
        call.site,
        call.precision,
        {precision: way(precision) for precision in known},
        partial(head, "float32", full),
        key=f"{replace(spec, kept=0)}, {density:.2f} of it in {call.precision}",
        parts=spec.batch * spec.heads,
        density=density,
    )


def _mask(forms: Forms, expr: Expr, keys: int) -> Expr:
    """The mask as [batch | 1, heads | 1, queries | 1, keys]."""
    mask = _narrow(forms, expr)
    mask = forms.op(relax.op.reshape(mask, [1] * (4 - len(shape(mask))) + list(shape(mask))))
    return mask if shape(mask)[3] == keys else forms.op(relax.op.broadcast_to(mask, [*shape(mask)[:3], keys]))


def _narrow(forms: Forms, expr: Expr) -> Expr:
    """A mask before it was broadcast over queries: the kernel broadcasts by itself, and a row of keys is read faster."""
    program = forms.program
    node = program.node(expr)
    if node is None:
        return forms.natural(expr)
    if node.op == "broadcast_to":
        return _narrow(forms, node.args[0])
    if node.op in ("bitwise_and", "logical_and"):
        for mask, other in (node.args, node.args[::-1]):
            value = program.constant(other)
            if value is not None and value.all():
                return _narrow(forms, mask)
    if node.op == "where" and all(program.scalar(arg) is not None for arg in node.args[1:]):
        return forms.op(relax.op.where(_narrow(forms, node.args[0]), *(forms.natural(arg) for arg in node.args[1:])))
    return forms.natural(expr)
