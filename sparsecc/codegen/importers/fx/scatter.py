"""torch operators that write at indices. All become scatter_elements, which TVM runs one write after the other where two may meet:
its index_put adds in parallel, so that threads lose sums."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import fx

from sparsecc.codegen.importers.base import arguments, shape_of
from sparsecc.codegen.importers.fx.numbers import Emit, cast
from sparsecc.codegen.tvm_api import relax


def index_put(node: fx.Node, importer: Any) -> Any:
    """x with values at x[i, :, j, ..], in their place or added to what is there; a mask takes one value for all its places."""
    given, emit = arguments(node), importer.block_builder.emit
    x, values = importer.env[given["self"]], importer.env[given["values"]]
    indices = {axis: importer.env[index] for axis, index in enumerate(given["indices"]) if index is not None}
    if any(index.ty.dtype.dtype == "bool" for index in indices.values()):
        return _masked(emit, x, indices, values, given["accumulate"])
    sizes, axes = shape_of(x), list(indices)
    rest = [axis for axis in range(len(sizes)) if axis not in indices]
    spread = list(np.broadcast_shapes(*(shape_of(index) for index in indices.values())))
    places, order = math.prod(spread), [*axes, *rest]
    indexed, width = math.prod(sizes[axis] for axis in axes), math.prod(sizes[axis] for axis in rest)
    place = _place(emit, [(emit(relax.op.broadcast_to(index, spread)), sizes[axis]) for axis, index in indices.items()])
    place = emit(relax.op.broadcast_to(emit(relax.op.reshape(place, [places, 1])), [places, width]))
    values = _spread(emit, values, sizes, axes, spread)
    table = emit(relax.op.reshape(emit(relax.op.permute_dims(x, order)), [indexed, width]))
    values = emit(relax.op.reshape(values, [places, width]))
    written = emit(relax.op.scatter_elements(table, place, values, axis=0, reduction="add" if given["accumulate"] else "update"))
    written = emit(relax.op.reshape(written, [sizes[axis] for axis in order]))
    return emit(relax.op.permute_dims(written, [order.index(axis) for axis in range(len(sizes))]))


def _masked(emit: Emit, x: Any, indices: dict[int, Any], values: Any, add: bool) -> Any:
    [(first, mask), *others] = indices.items()
    sizes, covered = shape_of(x), len(shape_of(mask))
    if others:
        raise NotImplementedError("a mask beside other indices")
    if any(size != 1 for size in shape_of(values)[: len(shape_of(values)) - len(sizes) + first + covered]) or (first and shape_of(values)):
        raise NotImplementedError("a mask, and values that differ from place to place")
    mask = emit(relax.op.reshape(mask, [1] * first + shape_of(mask) + [1] * (len(sizes) - first - covered)))
    values = emit(relax.op.reshape(values, shape_of(values)[-(len(sizes) - first - covered) :] if len(sizes) > first + covered else []))
    return emit(relax.op.where(mask, emit(relax.op.add(x, values)) if add else values, x))


def _place(emit: Emit, indices: list[tuple[Any, int]]) -> Any:
    """Where in the indexed axes, flattened, each value goes. indices: with the size of their axis."""
    if len(indices) == 1:
        return cast(emit, indices[0][0], "int64")  # scatter_elements counts it from the end itself
    place = None
    for index, size in indices:
        dtype = index.ty.dtype.dtype
        counted = emit(relax.op.add(index, relax.const(size, dtype)))
        counted = emit(relax.op.where(emit(relax.op.less(index, relax.const(0, dtype))), counted, index))
        at = emit(relax.op.take(relax.const(np.arange(size), "int64"), counted, axis=0))  # a table of its own, so that the index is checked
        place = at if place is None else emit(relax.op.add(emit(relax.op.multiply(place, relax.const(size, "int64"))), at))
    return place


def _spread(emit: Emit, values: Any, sizes: list[int], axes: list[int], spread: list[int]) -> Any:
    """values, broadcast as torch does it, as [*spread, *the axes that are not indexed]."""
    rest = [axis for axis in range(len(sizes)) if axis not in axes]
    before = axes[0] if axes[-1] - axes[0] == len(axes) - 1 else 0  # axes in front of those that the indices make
    left = [sizes[axis] for axis in rest]
    values = emit(relax.op.broadcast_to(values, [*left[:before], *spread, *left[before:]]))
    made = range(before, before + len(spread))
    return emit(relax.op.permute_dims(values, [*made, *range(before), *range(before + len(spread), len(left) + len(spread))]))


_REDUCTIONS = {"update": "update", "mean": "mean", "amax": "max", "amin": "min"}
_REDUCTIONS |= {"add": "add", "sum": "add", "prod": "mul", "multiply": "mul"}


def scatter(node: fx.Node, importer: Any) -> Any:
    """All of scatter, scatter_add and scatter_reduce: out[i, index[i, j]] from src[i, j], for dim 1."""
    emit, reduce = importer.block_builder.emit, "add" if "scatter_add" in str(node.target) else "update"
    given = {"include_self": True, "reduce": reduce, **arguments(node)}
    x, index, axis = importer.env[given["self"]], cast(emit, importer.env[given["index"]], "int64"), given["dim"]
    dtype, sizes = x.ty.dtype.dtype, shape_of(index)
    if "value" in given:
        src = emit(relax.op.full(sizes, relax.const(given["value"], dtype), dtype))
    else:
        src = _first(emit, importer.env[given["src"]], sizes)
    way = _REDUCTIONS[given["reduce"]]

    def write(table: Any, values: Any, reduction: str) -> Any:
        return emit(relax.op.scatter_elements(table, index, values, axis=axis, reduction=reduction))

    if not given["include_self"]:
        neutral = {"add": 0, "mean": 0, "mul": 1, "max": _least(dtype), "min": _most(dtype)}[way]
        x = write(x, emit(relax.op.full(sizes, relax.const(neutral, dtype), dtype)), "update")
    if way != "mean":
        return write(x, src, way)
    ones = emit(relax.op.full(sizes, relax.const(1, dtype), dtype))
    begun = emit(relax.op.full(shape_of(x), relax.const(1 if given["include_self"] else 0, dtype), dtype))
    count = emit(relax.op.maximum(write(begun, ones, "add"), relax.const(1, dtype)))
    return emit((relax.op.divide if "float" in dtype else relax.op.floor_divide)(write(x, src, "add"), count))


def _first(emit: Emit, x: Any, sizes: list[int]) -> Any:
    """The part of x at the beginning of each axis."""
    if shape_of(x) == sizes:
        return x
    axes = list(range(len(sizes)))
    return emit(relax.op.strided_slice(x, axes, [0] * len(sizes), sizes))


def _least(dtype: str) -> float | int:
    return -math.inf if "float" in dtype else int(np.iinfo(dtype).min)


def _most(dtype: str) -> float | int:
    return math.inf if "float" in dtype else int(np.iinfo(dtype).max)
