"""torch operators spelled in simpler ones, where neither torch nor TVM knows how. Shapes are fixed when they are taken apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsecc.codegen.importers.fx import elementwise as fx_elementwise

aten = torch.ops.aten


def _embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sums (mode 0), means (1) or maxima (2) of the rows at `indices` from each offset to the next; only these are computed of the
    four results, as the others are for training. What is behind the last offset, where that is included, makes a bag that is dropped."""
    bags, width = offsets.shape[0], weight.shape[1]
    begins = torch.zeros(indices.shape[0] + 1, dtype=torch.int64).index_add(0, offsets.long(), torch.ones_like(offsets, dtype=torch.int64))
    bag = begins.cumsum(0)[: indices.shape[0]] - 1
    rows = weight.index_select(0, indices)
    real = (indices != padding_idx if padding_idx >= 0 else torch.ones_like(indices, dtype=torch.bool)).unsqueeze(1)
    if mode == 2:
        least = torch.full_like(rows, -math.inf)
        found = torch.full((bags, width), -math.inf, dtype=weight.dtype)
        found = found.scatter_reduce(0, bag.unsqueeze(1).expand(-1, width), torch.where(real, rows, least), "amax")
        result = torch.where(found == -math.inf, torch.zeros_like(found), found)
    else:
        rows = rows if per_sample_weights is None else rows * per_sample_weights.unsqueeze(1)
        summed = torch.zeros(bags, width, dtype=weight.dtype).index_add(0, bag, torch.where(real, rows, torch.zeros_like(rows)))
        count = torch.zeros(bags, 1, dtype=weight.dtype).index_add(0, bag, real.to(weight.dtype))
        result = summed if mode == 0 else summed / count.clamp(min=1)
    unused = torch.zeros(0, dtype=indices.dtype)
    result = result.narrow(0, 0, bags - 1) if include_last_offset else result
    return result, unused, unused, unused


def _unfold(x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows along an axis, in a new last one."""
    if x.dim() == 0:
        return x.reshape(1)
    axis = dimension % x.dim()
    starts = torch.arange(0, x.shape[axis] - size + 1, step)
    return _windows(x, axis, starts.unsqueeze(1) + torch.arange(size)).movedim(axis + 1, -1)


def _windows(x: Tensor, axis: int, places: Tensor) -> Tensor:
    """An axis, counted from the front, as two: [windows, size], of what stands at these places."""
    return x.index_select(axis, places.reshape(-1)).unflatten(axis, places.shape)


def _adaptive_max_pool(x: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The maximum of each cell of a grid, and where it stands in the flattened image; cells may overlap where sizes do not divide.

    One axis after the other, the last one first, so that the first of equals in the image is found, as torch does it.
    """
    axes = len(output_size)
    image = x.shape[-axes:]
    places = torch.arange(math.prod(image)).reshape(image).expand(x.shape)
    for axis, (size, parts) in reversed(list(enumerate(zip(image, output_size, strict=True), start=x.dim() - axes))):
        if size % parts:
            cells = _cells(size, parts)
            x, places = _windows(x, axis, cells), _windows(places, axis, cells)
        else:
            x, places = (value.unflatten(axis, (parts, size // parts)) for value in (x, places))
        found = x.argmax(axis + 1, keepdim=True)
        x, places = x.amax(axis + 1), places.gather(axis + 1, found).squeeze(axis + 1)
    return x, places


def _cells(size: int, parts: int) -> Tensor:
    """[parts, places]: what each cell holds of an axis; smaller ones have their last place several times."""
    longest = max(-(-(i + 1) * size // parts) - i * size // parts for i in range(parts))
    cell = torch.arange(parts).unsqueeze(1)
    start, end = cell * size // parts, ((cell + 1) * size + parts - 1) // parts
    return torch.minimum(start + torch.arange(longest), end - 1)


def _take(x: Tensor, index: Tensor) -> Tensor:
    flat = index.reshape(-1)
    flat = torch.where(flat < 0, flat + x.numel(), flat)
    return x.reshape(-1).index_select(0, flat).reshape(index.shape)


def _searchsorted(
    boundaries: Tensor,
    values: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """How many boundaries are below each value, or not above it."""
    if sorter is not None:
        boundaries = boundaries.gather(-1, sorter)
    bounds = boundaries.unsqueeze(-2) if boundaries.dim() > 1 else boundaries
    below = bounds <= values.unsqueeze(-1) if right or side == "right" else bounds < values.unsqueeze(-1)
    return below.sum(-1).to(torch.int32 if out_int32 else torch.int64)


def _cdist(x: Tensor, y: Tensor, p: float, compute_mode: int | None) -> Tensor:
    """The p-norm of the difference of each row of x and each row of y."""
    apart = (x.unsqueeze(-2) - y.unsqueeze(-3)).abs()
    if p == 2:
        return apart.square().sum(-1).sqrt()
    if p == math.inf:
        return apart.amax(-1)
    return (apart != 0).to(x.dtype).sum(-1) if p == 0 else apart.pow(p).sum(-1).pow(1 / p)


def _index_reduce(x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True) -> Tensor:
    shape = [-1 if axis == dim % x.dim() else 1 for axis in range(x.dim())]
    return torch.scatter_reduce(x, dim, index.long().reshape(shape).expand(source.shape), source, reduce, include_self=include_self)


def _masked_scatter(x: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """The next value of `source` wherever the mask is set: how image features take the places of their tokens."""
    x, mask = torch.broadcast_tensors(x, mask)
    flat = mask.reshape(-1)
    places = (flat.long().cumsum(0) - 1).clamp(0, source.numel() - 1)
    return torch.where(flat, source.reshape(-1).index_select(0, places), x.reshape(-1)).reshape(x.shape)


def _histc(x: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """How many elements fall into each of `bins` equal parts of [min, max], or of their own range where that is empty."""
    x, least, most = x.reshape(-1), min, max
    if min == max:
        least, most = x.amin(), x.amax()
        alike = (least == most).to(x.dtype)
        least, most = least - alike, most + alike
    part = ((x - least) * bins / (most - least)).long().clamp(max=bins - 1)
    counted = (part.unsqueeze(1) == torch.arange(bins)) & ((x >= least) & (x <= most)).unsqueeze(1)
    return counted.sum(0).to(x.dtype)


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    **fx_elementwise.DECOMPOSITIONS,
    aten._embedding_bag.default: _embedding_bag,
    aten._embedding_bag_forward_only.default: _embedding_bag,
    aten.unfold.default: _unfold,
    aten.adaptive_max_pool2d.default: _adaptive_max_pool,
    aten.adaptive_max_pool3d.default: _adaptive_max_pool,
    aten.take.default: _take,
    aten.index_reduce.default: _index_reduce,
    aten.masked_scatter.default: _masked_scatter,
    aten.histc.default: _histc,
    aten.searchsorted.Tensor: _searchsorted,
    aten._cdist_forward.default: _cdist,
}
