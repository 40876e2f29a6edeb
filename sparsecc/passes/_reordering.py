"""What is done at an attention whose tokens are reordered, and why nothing is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparsecc.attention.base import BlockMap, Choice, Head, Sample
from sparsecc.attention.rounding import Precision
from sparsecc.errors import Refused
from sparsecc.graph.sites import Attention

if TYPE_CHECKING:
    from sparsecc.attention.dynamic import DynamicMap


@dataclass(frozen=True)
class Reordering:
    """What ReorderTokens does at a site. choice: None for a map out of a plan."""

    map: BlockMap | DynamicMap
    choice: Choice[Any] | None = None
    precision: Precision = "float32"
    checked: str = ""  # what the model's outputs are on held-out inputs

    def __str__(self) -> str:
        narrow = "" if self.precision == "float32" else f"in {self.precision}"
        orders, kept = (
            (_orders_by_head(self.map), f"density {self.map.density:.2f}") if isinstance(self.map, BlockMap) else ((), str(self.map))
        )
        said = [kept, narrow, *self._costs(), *orders, self.checked]
        return ", ".join(filter(None, said))

    def heads(self) -> list[Head]:
        """A row for each head: its order, its density, and what it lost when it was chosen. None where blocks are chosen in each call."""
        from sparsecc.attention import orders  # which imports torch

        if not isinstance(self.map, BlockMap):
            return []
        return orders.head_rows(self.map, *(() if self.choice is None else (self.choice.lost, self.choice.error)))

    def _costs(self) -> Iterator[str]:
        dense = self.map.dense_heads
        sparse = [head for head in range(self.map.heads) if head not in dense]
        lost, error = (None, None) if self.choice is None else (self.choice.lost, self.choice.error)
        if lost is not None and error is not None and sparse:
            yield f"lost mass {float(lost[sparse].mean()):.2g}"
            yield f"output error {float(error[sparse].mean()):.2g} (largest {float(error[sparse].max()):.2g})"
        if dense:
            yield f"{len(dense)} of {self.map.heads} heads dense ({', '.join(map(str, dense))})"


def untouchable(site: Attention, reorders: bool) -> Refused | None:
    """Why an attention cannot be made block-sparse, None when it can. What its length has to be is not asked here."""
    if site.block_map is not None:
        return Refused(f"block-sparse already, density {site.block_map.density:.2f}")
    if site.causal and reorders:
        return Refused("causal attention: its order of tokens has a meaning")
    if site.has_mask and reorders:
        return Refused("its mask would have to be reordered with every head; only attention without a mask is")
    if site.heads % site.kv_heads:
        return Refused(f"{site.kv_heads} heads of keys cannot serve {site.heads} heads of queries evenly")
    if None not in (site.tokens, site.kv_tokens) and site.tokens != site.kv_tokens:
        return Refused(f"cross attention: {site.tokens} queries, {site.kv_tokens} keys")
    return Refused(site.bound) if site.bound else None


def uncounted(pattern: str) -> Refused:
    """Why a pattern that counts calls is not for code that remembers nothing."""
    return Refused(f"{pattern} counts the model's calls, and code for CPUs remembers nothing from call to call; for GPUs it does")


def unfit(samples: Sequence[Sample]) -> Refused | None:
    """What only the tensors tell."""
    for q, k, v in samples:
        if q.shape[2] != k.shape[2]:
            return Refused(f"cross attention: {q.shape[2]} queries, {k.shape[2]} keys")
        if q.shape[2] != samples[0].q.shape[2]:
            return Refused(f"{samples[0].q.shape[2]} tokens in one calibration input, {q.shape[2]} in another")
        if not all(x.isfinite().all() for x in (q, k, v)):
            return Refused("its q, k or v held NaN or infinity on a calibration input")
    return None


def _orders_by_head(found: BlockMap) -> Iterator[str]:
    """'order FHW for heads 0, 2', the sparse heads only; nothing where all have the model's."""
    from sparsecc.attention import orders

    if found.orders is None:
        return
    dense, names = found.dense_heads, orders.names(found)
    for name in sorted(set(names), key=orders.NAMES.index):
        heads = [str(head) for head, its in enumerate(names) if its == name and head not in dense]
        if heads:
            order = f"order {name}" if name != "own" else "an order of its own"
            yield f"{order} for head{'s' * (len(heads) > 1)} {', '.join(heads)}"
