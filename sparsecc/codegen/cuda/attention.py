"""`sparsecc::attention_cuda`: the torch operator that launches `decode_attention`, attention of few queries to many keys.

    y = softmax(scale · q kᵀ, over the keys that the mask lets be seen) v

q and y [batch, heads, queries, head_dim], k and v [batch, kv_heads, keys, head_dim], mask bool, [queries, keys] or what broadcasts to it. A
query that sees nothing gives zeros. Registered as `operator.linear_cuda` is, and as that without gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.codegen.cuda import launched, operator
from sparsecc.codegen.cuda.kernel import AttentionSpec
from sparsecc.errors import InputError


def through_torch(spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """By torch's own attention. mask: [queries, keys]."""
    return functional.scaled_dot_product_attention(q, k, v, mask, scale=spec.scale, enable_gqa=spec.heads != spec.kv_heads)


def meaning(spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """As `through_torch`, with zeros where a query sees nothing."""
    y = through_torch(spec, q, k, v, mask)
    return y if mask is None else y.where(mask.any(-1, keepdim=True), 0)


def is_one_for_all(mask: Tensor, queries: int, keys: int) -> bool:
    """Whether it says of each query which keys are seen, for all sequences and heads alike."""
    *others, rows, columns = mask.shape if mask.dim() > 1 else (0, 0)
    return mask.dtype == torch.bool and all(size == 1 for size in others) and rows in (1, queries) and columns == keys


def example(spec: AttentionSpec, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Some q, k, v and mask."""
    dtype = getattr(torch, spec.dtype)
    heads = (spec.heads, spec.queries), (spec.kv_heads, spec.keys), (spec.kv_heads, spec.keys)
    q, k, v = (torch.randn(spec.batch, *sizes, spec.head_dim, device=device, dtype=dtype) for sizes in heads)
    return q, k, v, torch.ones(spec.queries, spec.keys, device=device, dtype=torch.bool) if spec.masked else None


def _checked(spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor | None:
    """The mask as [queries, keys]. Raises InputError for shapes, types and devices that are not the plan's."""
    queries, keys = (spec.batch, spec.heads, spec.queries, spec.head_dim), (spec.batch, spec.kv_heads, spec.keys, spec.head_dim)
    for name, tensor, shape in (("q", q, queries), ("k", k, keys), ("v", v, keys)):
        if tensor.shape != shape or tensor.dtype is not getattr(torch, spec.dtype) or tensor.device != q.device:
            here = f"{name} is {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
            raise InputError(f"attention_cuda takes {spec.dtype} {shape} on {q.device}, {here}")
    if (mask is not None) != spec.masked:
        raise InputError(f"attention_cuda: this plan is for attention {'with' if spec.masked else 'without'} a mask")
    if mask is None:
        return None
    if mask.device != q.device or not is_one_for_all(mask, spec.queries, spec.keys):
        here = f"{mask.dtype} {tuple(mask.shape)} on {mask.device}"
        raise InputError(f"attention_cuda takes a mask bool {(spec.queries, spec.keys)} on {q.device}, it is {here}")
    return mask.reshape(mask.shape[-2:]).expand(spec.queries, spec.keys)


def _cuda(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, plan: str) -> Tensor:
    spec = launched.spec_of(AttentionSpec, plan, "attention_cuda")
    seen, launch = _checked(spec, q, k, v, mask), launched.on(plan, q.device)
    if not launch.there:
        return meaning(spec, q, k, v, seen)
    q = operator.aligned(q)
    y = torch.empty_like(q)
    tensors = {"Q": q, "K": operator.aligned(k), "V": operator.aligned(v), "Y": y}
    launch(tensors if seen is None else tensors | {"M": seen.contiguous()})
    return y


def _cpu(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, plan: str) -> Tensor:
    """What it means, for a machine without a GPU: in float32."""
    spec = launched.spec_of(AttentionSpec, plan, "attention_cuda")
    seen = _checked(spec, q, k, v, mask)
    return meaning(spec, q.float(), k.float(), v.float(), seen).to(q.dtype)


def _fake(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, plan: str) -> Tensor:
    return q.new_empty(q.shape)


attention_cuda = launched.registered("Tensor q, Tensor k, Tensor v, Tensor? mask, str plan", "attention_cuda", _cuda, _cpu, _fake)
