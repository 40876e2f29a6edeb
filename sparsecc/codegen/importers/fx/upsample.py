"""torch's image enlargement. TVM samples by the ratio of the sizes, torch by the factor that was given, and "nearest" rounds down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import fx

from sparsecc.codegen.importers.base import args_of
from sparsecc.codegen.tvm_api import relax


def upsample(node: fx.Node, importer: Any) -> Any:
    """upsample_nearest2d(x, size, factors) or upsample_bilinear2d(x, size, align_corners, factors): TVM's where both mean the same."""
    name: str = node.target.__name__  # type: ignore[union-attr]
    x, *_, factors = args_of(node)
    image, out, nearest = x.meta["val"].shape[2:], node.meta["val"].shape[2:], "nearest" in name
    factors = factors if args_of(node)[1] is None else [to / of for of, to in zip(image, out, strict=True)]
    exact = all(of * factor == to and (not nearest or to % of == 0) for of, to, factor in zip(image, out, factors, strict=True))
    if exact or (not nearest and args_of(node)[2]):  # aligned corners fix the ratio
        return importer.create_convert_map()[name](node)
    result = importer.env[x]
    for axis, of, to, factor in zip((2, 3), image, out, factors, strict=True):
        if nearest:
            at = np.floor(np.arange(to, dtype=np.float32) * np.float32(1 / factor))
        else:
            at = np.maximum((np.arange(to, dtype=np.float32) + 0.5) * np.float32(1 / factor) - 0.5, 0)
        result = _sampled(importer.block_builder.emit, result, axis, np.minimum(at, of - 1).astype(np.float32))
    return result


def _sampled(emit: Callable[[Any], Any], x: Any, axis: int, at: np.ndarray) -> Any:
    """x at these places along an axis, linear between two pixels."""
    low = np.floor(at)
    below = _taken(emit, x, axis, low)
    if (low == at).all():
        return below
    above = _taken(emit, x, axis, np.ceil(at))
    share = relax.const((at - low).reshape(-1, *[1] * (len(x.ty.shape) - axis - 1)))
    return emit(relax.op.add(below, emit(relax.op.multiply(emit(relax.op.subtract(above, below)), share))))


def _taken(emit: Callable[[Any], Any], x: Any, axis: int, index: np.ndarray) -> Any:
    return emit(relax.op.take(x, relax.const(index.astype(np.int64), "int64"), axis=axis))
