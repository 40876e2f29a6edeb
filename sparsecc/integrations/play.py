"""Block maps, played on tensors where they are.

On a CPU torch's operator `sparsecc::block_attention`, block by block. On a GPU the kernel `block_attention` where it takes the sizes, else
FlexAttention with the same blocks.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from sparsecc.api import gpu
from sparsecc.attention.base import BlockMap
from sparsecc.codegen.cuda import blocks, operator
from sparsecc.codegen.cuda.arch import nearest, spelt
from sparsecc.codegen.cuda.blocks import hides_keys
from sparsecc.codegen.cuda.choose import Chooser
from sparsecc.codegen.cuda.flex import Flexed, unfit
from sparsecc.codegen.cuda.kernel import BlockAttentionSpec
from sparsecc.codegen.cuda.target import Target, capability, device_name
from sparsecc.errors import InputError, Refused
from sparsecc.forms import dtype_of
from sparsecc.ops.block_attention.torch import BlockAttention

_KERNEL_DTYPES = (torch.bfloat16, torch.float16)


class Player:
    """Computes one attention by its map. runs: what did so last, and why not the kernel where it was another."""

    def __init__(self, name: str, found: BlockMap) -> None:
        self.name, self.map, self.runs = name, found, "not called yet"
        self._made: dict[Any, Any] = {}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """q, k, v: [batch, heads, tokens, head_dim] in the model's order.  mask: as `scaled_dot_product_attention` takes it; on a GPU only
        bool[batch, 1, 1, tokens], true for the keys that are seen. Raises InputError for what the map is not for."""
        self._check(q, k, causal)
        if q.device.type != "cuda":
            self.runs = "torch, block by block"
            return self._reference(q, k, v, scale, mask)
        seen = self._seen(mask, len(q))
        reason = unfit(self.map.block)
        if reason is not None:
            self.runs = f"torch, block by block: {reason.reason}"
            return self._reference(q, k, v, scale, mask)
        key = self._kernel(q, k, v, scale, seen is not None)
        if isinstance(key, str):
            self.runs = "kernel block_attention"
            return self._launched(key, q, k, v, seen)
        self.runs = f"FlexAttention: {key.reason}"
        return self._flex(q, k, v, scale, seen)

    def _check(self, q: Tensor, k: Tensor, causal: bool) -> None:
        found, tokens = self.map, q.shape[2]
        if tokens != found.grid.tokens or k.shape[2] != tokens:
            sizes = f"the plan is for {found.grid.tokens} tokens ({found.grid}), this call has {tokens}"
            raise InputError(f"attention '{self.name}': {sizes}; another size, length or prompt length needs a plan of its own")
        if q.shape[1] != found.heads:
            raise InputError(f"attention '{self.name}' has {q.shape[1]} heads, the plan {found.heads}")
        if causal != found.causal:
            raise InputError(
                f"attention '{self.name}' {'is' if causal else 'is not'} causal, the plan's {'is' if found.causal else 'is not'}"
            )

    def _here(self, device: torch.device) -> BlockMap:
        """The map, on a device."""
        return self._once(("map", device), lambda: self.map.to(device))

    def _reference(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Tensor:
        found = BlockAttention(self._here(q.device), scale)
        call = found.torch_call(self.name)
        return call.target(q, k, v, found.map.orders, found.map.keep, *call.options, mask=mask)

    def _seen(self, mask: Tensor | None, batch: int) -> Tensor | None:
        """bool[batch, 1, 1, tokens], None where every key is seen."""
        if mask is None:
            return None
        if not hides_keys(mask, batch, self.map.grid.tokens):
            here = f"its mask is {str(mask.dtype).removeprefix('torch.')} {tuple(mask.shape)}"
            raise InputError(f"attention '{self.name}': {here}; on a GPU only bool [batch, 1, 1, tokens] is played")
        return None if _all_seen(mask) else mask

    def _kernel(self, q: Tensor, k: Tensor, v: Tensor, scale: float, masked: bool) -> str | Refused:
        """Which plan of a kernel computes it."""
        if q.dtype not in _KERNEL_DTYPES or not q.dtype == k.dtype == v.dtype:
            return Refused(f"the kernel takes bfloat16 and float16, not {dtype_of(q)}")
        if v.shape[3] != q.shape[3]:
            return Refused(f"the kernel takes values as wide as keys, not {v.shape[3]} beside {q.shape[3]}")
        batch, heads, tokens, depth = q.shape
        found = self.map
        sizes, first = (batch, heads, k.shape[1], tokens, depth, scale, found.block), blocks.tokens_first(q, k, v)
        with torch.cuda.device(q.device):
            return _plan_of(BlockAttentionSpec(*sizes, dtype_of(q), found.causal, found.orders is not None, first, masked), q.device.index)

    def _launched(self, key: str, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
        packed = self._once(("packed", q.device, len(q)), lambda: blocks.pack(self._here(q.device), len(q)))
        return blocks.block_attention_cuda(q, k, v, *packed, seen, key)

    def _flex(self, q: Tensor, k: Tensor, v: Tensor, scale: float, seen: Tensor | None) -> Tensor:
        return self._once(("flex", q.device), lambda: Flexed(self.map, q.device))(q, k, v, scale, None if seen is None else seen[:, 0, 0])

    def _once(self, key: Any, make: Any) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


@cache
def _plan_of(spec: BlockAttentionSpec, device: int) -> str | Refused:
    """The key of a plan for the current GPU."""
    row = nearest(capability())
    if row is None:
        return Refused(f"there are no kernels for {spelt(capability())}")
    choice = Chooser(Target((row.name,), device_name()), gpu.builder(None), measure=False).alone(spec)
    return Refused(choice.reason) if choice.plan is None else operator.register(choice.plan)


_ALL_SEEN = WeakTensorKeyDictionary()


def _all_seen(mask: Tensor) -> bool:
    """Asked once of a mask that all layers of a model share, as long as nobody writes into it: the answer makes the host wait for the
    GPU."""
    if mask.is_inference():  # which has no count of what was written
        return False
    found = _ALL_SEEN.get(mask)
    if found is None or found[0] != mask._version:
        found = _ALL_SEEN[mask] = mask._version, bool(mask.all())
    return found[1]
