"""What a host is asked to put in the place of something else: why it does not fit there, in words that follow the site's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparsecc.graph.sites import Attention, Conv2d, Site, WeightSite
from sparsecc.ops.base import Operator, SiteOp

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.graph.channels import Channels


def misfit(site: Site, op: Operator) -> str | None:
    """Why an operator cannot stand in the place of a site as it is now, None when it can."""
    if site.kind not in op.takes:
        return f"is of kind {site.kind}, {type(op).__name__} takes the place of {' or '.join(op.takes)}"
    if isinstance(site, WeightSite) and isinstance(op, SiteOp):
        return _misfit_of_weight(site, op)
    return _misfit_of_attention(site, op) if isinstance(site, Attention) else None


def _misfit_of_weight(site: WeightSite, op: SiteOp) -> str | None:
    rows, cols = op.stored.rows, op.stored.cols
    if (rows, cols) != (site.rows, site.cols):
        return f"is {site.rows}×{site.cols}, the operator {rows}×{cols}"
    if isinstance(site, Conv2d) and site.groups > 1:
        return f"is a convolution in {site.groups} groups, for which there is no operator"
    if op.bias is not None and tuple(op.bias.shape) != (rows,):
        return f"has {rows} rows, the operator a bias of shape {tuple(op.bias.shape)}"
    return None


def _misfit_of_attention(site: Attention, op: Operator) -> str | None:
    from sparsecc.ops.block_attention.torch import BlockAttention  # here, because it imports torch
    from sparsecc.ops.dynamic_block_attention.torch import DynamicBlockAttention

    if site.bound is not None:
        return f"is left as it is: {site.bound}"
    if not isinstance(op, BlockAttention | DynamicBlockAttention):
        return None
    if site.has_mask and isinstance(op, DynamicBlockAttention):
        return "has a mask, the operator takes none"
    if site.has_mask and isinstance(op, BlockAttention) and op.map.orders is not None:
        return "has a mask of tokens in the model's order, the operator other orders"
    if site.causal != op.map.causal:
        return f"is {'' if site.causal else 'not '}causal, the operator is {'' if op.map.causal else 'not'}".rstrip()
    return None if op.map.heads == site.heads else f"has {site.heads} heads, the operator {op.map.heads}"


def misfit_of_order(order: Tensor, cols: int) -> str | None:
    """Why it is not each of the columns once."""
    if order.dim() == 1 and not order.is_floating_point() and sorted(order.tolist()) == list(range(cols)):
        return None
    return f"an order of its {cols} inputs names each of them once"


def misfit_of_rest(channels: Channels, units: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """Why units, and what their reader gets, do not fit the channels that they are some of."""
    reader, kept = channels.reader, units.tolist()
    if units.dim() != 1 or not kept or kept != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < channels.units:
        return f"the units to keep are some of 0 to {channels.units - 1}, ascending"
    shape = (reader.rows, reader.cols // channels.units * len(kept))
    if tuple(weight.shape) != shape:
        return f"the new weight of '{reader.name}' has shape {tuple(weight.shape)}, it needs {shape}"
    if bias is not None and (reader.bias is None or tuple(bias.shape) != tuple(reader.bias.shape)):
        has = "no bias" if reader.bias is None else f"a bias of {reader.bias.numel()}"
        return f"'{reader.name}' has {has}, the new one is {tuple(bias.shape)}"
    return None
