"""Converters for torch operators that TVM's importer lacks or takes wrongly."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import fx

from sparsecc.codegen.importers import bfloat16, near_zero
from sparsecc.codegen.importers.base import args_of, arguments, shape_of
from sparsecc.codegen.importers.fx import numbers as fx_numbers
from sparsecc.codegen.importers.fx import scatter as fx_scatter
from sparsecc.codegen.importers.fx import sort as fx_sort
from sparsecc.codegen.importers.fx.numbers import cast, result_dtype
from sparsecc.codegen.importers.fx.upsample import upsample
from sparsecc.codegen.tvm_api import Expr, relax

Converter = Callable[[fx.Node, Any], Any]


def _same(node: fx.Node, importer: Any) -> Any:
    """Moves between devices and copies change nothing here; a dtype argument is honored."""
    x = importer.env[node.args[0]]
    wanted = result_dtype(node)
    return x if x.ty.dtype.dtype == wanted else bfloat16.cast(importer.block_builder, x, wanted)


def _where_scalars(node: fx.Node, importer: Any) -> Any:
    condition, *values = (importer.env[arg] if isinstance(arg, fx.Node) else arg for arg in args_of(node))
    dtype = result_dtype(node)
    values = [value if isinstance(value, Expr) else relax.const(value, dtype) for value in values]
    return importer.block_builder.emit(relax.op.where(condition, *values))


def _reshape(node: fx.Node, importer: Any) -> Any:
    return importer.block_builder.emit(relax.op.reshape(importer.env[node.args[0]], list(node.meta["val"].shape)))


def _reduce(op: Callable[..., Any]) -> Converter:
    """(x, dim or dims, keepdim), where no dims are all of them."""

    def convert(node: fx.Node, importer: Any) -> Any:
        given = arguments(node)
        axes = [given["dim"]] if isinstance(given["dim"], int) else list(given["dim"]) or None
        return importer.block_builder.emit(op(importer.env[given["self"]], axis=axes, keepdims=given["keepdim"]))

    return convert


def _spread(root: bool) -> Converter:
    """var and std: Relax divides by n, torch by n - correction."""

    def convert(node: fx.Node, importer: Any) -> Any:
        given, emit = arguments(node), importer.block_builder.emit
        x, axes = importer.env[given["self"]], list(given["dim"] or []) or None
        sizes = shape_of(x)
        counted = math.prod(sizes if axes is None else [sizes[axis] for axis in axes])
        correction = 1 if given["correction"] is None else given["correction"]
        unbiased = counted / (counted - correction) if counted > correction else math.nan
        result = emit(relax.op.variance(x, axis=axes, keepdims=given["keepdim"]))
        result = emit(relax.op.multiply(result, relax.const(unbiased, x.ty.dtype.dtype)))
        return emit(relax.op.sqrt(result)) if root else result

    return convert


def _conv2d_mode(node: fx.Node, importer: Any) -> Any:
    """conv2d with padding="same" or "valid"."""
    given, emit = arguments(node), importer.block_builder.emit
    x, weight = importer.env[given["input"]], importer.env[given["weight"]]
    stride, dilation = (list(given[name]) * (2 // len(given[name])) for name in ("stride", "dilation"))
    over = [d * (size - 1) if given["padding"] == "same" else 0 for d, size in zip(dilation, shape_of(weight)[2:], strict=True)]
    padding = [over[0] // 2, over[1] // 2, over[0] - over[0] // 2, over[1] - over[1] // 2]
    y = emit(relax.op.nn.conv2d(x, weight, strides=stride, padding=padding, dilation=dilation, groups=given["groups"]))
    return y if given["bias"] is None else emit(relax.op.add(y, emit(relax.op.reshape(importer.env[given["bias"]], [1, -1, 1, 1]))))


def _rsub(node: fx.Node, importer: Any) -> Any:
    """other - alpha·x."""
    given, emit = arguments(node), importer.block_builder.emit
    x = importer.env[given["self"]]
    dtype = result_dtype(node)
    x = cast(emit, x, dtype)
    scaled = x if given["alpha"] == 1 else emit(relax.op.multiply(x, relax.const(given["alpha"], dtype)))
    return emit(relax.op.subtract(relax.const(given["other"], dtype), scaled))


def _index(node: fx.Node, importer: Any) -> Any:
    """x[i, :, j, ..]: TVM's takes the first axes only and no negative indices. Their place is where torch has it: that of the
    first index when the indexed axes are neighbours, else in front."""
    x, indices = importer.env[node.args[0]], [index and importer.env[index] for index in args_of(node)[1]]
    given = [axis for axis, index in enumerate(indices) if index is not None]
    if any("int" not in indices[axis].ty.dtype.dtype for axis in given):
        return importer.create_convert_map()["index.Tensor"](node)
    emit, rest = importer.block_builder.emit, [axis for axis in range(len(shape_of(x))) if axis not in given]
    counted = []
    for axis in given:
        index = indices[axis]
        zero, size = (relax.const(value, index.ty.dtype.dtype) for value in (0, shape_of(x)[axis]))
        counted.append(emit(relax.op.where(relax.op.less(index, zero), relax.op.add(index, size), index)))
    if len(given) == 1:
        return emit(relax.op.take(x, counted[0], axis=given[0]))
    y = emit(relax.op.index_tensor(emit(relax.op.permute_dims(x, [*given, *rest])), counted))
    before = given[0] if given[-1] - given[0] == len(given) - 1 else 0
    new = len(shape_of(y)) - len(rest)  # axes that the indices make
    return emit(relax.op.permute_dims(y, [*range(new, new + before), *range(new), *range(new + before, new + len(rest))]))


def _extreme(value: Callable[..., Any], place: Callable[..., Any]) -> Converter:
    """(values, indices) of max or min along an axis."""

    def convert(node: fx.Node, importer: Any) -> Any:
        given, emit = arguments(node), importer.block_builder.emit
        x, axis, keep = importer.env[given["self"]], given["dim"], given["keepdim"]
        return emit(relax.Tuple([emit(value(x, axis, keep)), emit(place(x, axis, keep))]))

    return convert


def _any(node: fx.Node, importer: Any) -> Any:
    """Whether any element is not zero, of all or along axes."""
    given, emit = {"dim": None, "keepdim": False, **arguments(node)}, importer.block_builder.emit
    x, axes = importer.env[given["self"]], [given["dim"]] if isinstance(given["dim"], int) else list(given["dim"] or []) or None
    found = x if x.ty.dtype.dtype == "bool" else emit(relax.op.not_equal(x, relax.const(0, x.ty.dtype.dtype)))
    most = emit(relax.op.max(emit(relax.op.astype(found, "int8")), axis=axes, keepdims=given["keepdim"]))
    return emit(relax.op.astype(most, "bool"))


def _divide(node: fx.Node, importer: Any) -> Any:
    """True division, also of integers."""
    dtype = result_dtype(node)
    operands = [importer.env[arg] if isinstance(arg, fx.Node) else relax.const(arg, dtype) for arg in args_of(node)]
    emit = importer.block_builder.emit
    return emit(relax.op.divide(*(cast(emit, x, dtype) for x in operands)))


def _elu(node: fx.Node, importer: Any) -> Any:
    """elu: scale·(max(x, 0) + alpha·(e^(input_scale·min(x, 0)) - 1)); celu: with an input_scale of 1/alpha. Both may be negative."""
    given, emit = {"scale": 1, **arguments(node)}, importer.block_builder.emit
    x = importer.env[given["self"]]
    inner = given["input_scale"] if "input_scale" in given else 1 / given["alpha"]

    def const(value: float) -> Any:
        return relax.const(value, x.ty.dtype.dtype)

    below = emit(relax.op.multiply(emit(relax.op.minimum(x, const(0))), const(inner)))
    below = emit(relax.op.subtract(emit(relax.op.exp(below)), const(1)))
    y = emit(relax.op.add(emit(relax.op.nn.relu(x)), emit(relax.op.multiply(below, const(given["alpha"])))))
    return y if given["scale"] == 1 else emit(relax.op.multiply(y, const(given["scale"])))


def _avg_pool2d(node: fx.Node, importer: Any) -> Any:
    if arguments(node)["divisor_override"] is not None:
        raise NotImplementedError("divisor_override")
    return importer.create_convert_map()["avg_pool2d.default"](node)


def _grid_sample(node: fx.Node, importer: Any) -> Any:
    """Relax has the coordinates in front of the grid, torch behind it."""
    given, emit = arguments(node), importer.block_builder.emit
    method = ("bilinear", "nearest", "bicubic")[given["interpolation_mode"]]
    padding = ("zeros", "border", "reflection")[given["padding_mode"]]
    grid = emit(relax.op.permute_dims(importer.env[given["grid"]], [0, 3, 1, 2]))
    return emit(relax.op.image.grid_sample(importer.env[given["input"]], grid, method, "NCHW", padding, given["align_corners"]))


def _batch_norm(node: fx.Node, importer: Any) -> Any:
    """For inference; the two other results, for training, are empty in torch."""
    given = arguments(node)
    empty = relax.const(np.empty(0, importer.env[given["input"]].ty.dtype.dtype))
    return importer.block_builder.emit(relax.Tuple([_standardized(given, importer), empty, empty]))


def _standardized(given: dict[str, Any], importer: Any) -> Any:
    """(x - mean) / sqrt(var + eps) · weight + bias by channels, of statistics that are known."""
    x, emit = importer.env[given["input"]], importer.block_builder.emit
    dtype, column = x.ty.dtype.dtype, [-1, *[1] * (len(shape_of(x)) - 2)]

    def channels(name: str) -> Any:
        return emit(relax.op.reshape(importer.env[given[name]], column))

    deviation = emit(relax.op.sqrt(emit(relax.op.add(channels("running_var"), relax.const(given["eps"], dtype)))))
    scale = emit(relax.op.divide(relax.const(1.0, dtype), deviation))
    scale = scale if given["weight"] is None else emit(relax.op.multiply(scale, channels("weight")))
    y = emit(relax.op.multiply(emit(relax.op.subtract(x, channels("running_mean"))), scale))
    return y if given["bias"] is None else emit(relax.op.add(y, channels("bias")))


def _instance_norm(node: fx.Node, importer: Any) -> Any:
    """A group norm of as many groups as channels, unless its statistics are known."""
    given = arguments(node)
    if not given["use_input_stats"]:
        return _standardized(given, importer)
    return _grouped_norm(given, importer, shape_of(importer.env[given["input"]])[1])


def _layer_norm(node: fx.Node, importer: Any) -> Any:
    given = arguments(node)
    sizes = list(given["normalized_shape"])
    axes = list(range(-len(sizes), 0))
    return importer.block_builder.emit(relax.op.nn.layer_norm(*_normed(given, importer, sizes), axes=axes, epsilon=given["eps"]))


def _group_norm(node: fx.Node, importer: Any) -> Any:
    given = arguments(node)
    return _grouped_norm(given, importer, given["num_groups"])


def _grouped_norm(given: dict[str, Any], importer: Any, groups: int) -> Any:
    sizes = shape_of(importer.env[given["input"]])
    args, axes = _normed(given, importer, sizes[1:2]), list(range(2, len(sizes)))
    return importer.block_builder.emit(relax.op.nn.group_norm(*args, num_groups=groups, channel_axis=1, axes=axes, epsilon=given["eps"]))


def _normed(given: dict[str, Any], importer: Any, sizes: list[int]) -> list[Any]:
    """Input, weight and bias of a norm; TVM's know no missing weight or bias."""
    x = importer.env[given["input"]]
    missing = {name: relax.const(np.full(sizes, value, x.ty.dtype.dtype)) for name, value in (("weight", 1), ("bias", 0))}
    return [x, *(missing[name] if given[name] is None else importer.env[given[name]] for name in missing)]


CONVERTERS: dict[str, Converter] = {
    **dict.fromkeys(("to.device", "to.other", "clone.default", "alias.default", "detach.default", "lift_fresh_copy.default"), _same),
    **dict.fromkeys(("contiguous.default", "to.dtype", "to.dtype_layout", "_to_copy.default", "dropout.default"), _same),
    **dict.fromkeys(("where.ScalarOther", "where.ScalarSelf", "where.Scalar"), _where_scalars),
    **dict.fromkeys(("_unsafe_view.default", "view.default", "reshape.default", "flatten.using_ints"), _reshape),
    "amax.default": _reduce(relax.op.max),
    "amin.default": _reduce(relax.op.min),
    **dict.fromkeys(("sum.default", "sum.dim_IntList"), fx_numbers.total(relax.op.sum)),
    **dict.fromkeys(("prod.default", "prod.dim_int"), fx_numbers.total(relax.op.prod)),
    **dict.fromkeys(("mean.default", "mean.dim"), fx_numbers.total(relax.op.mean)),
    "cumsum.default": fx_numbers.running(relax.op.cumsum),
    "cumprod.default": fx_numbers.running(relax.op.cumprod),
    **dict.fromkeys(("clamp.default", "clamp.Tensor", "clamp_min.default", "clamp_min.Tensor"), fx_numbers.clamp),
    **dict.fromkeys(("clamp_max.default", "clamp_max.Tensor"), fx_numbers.clamp),
    **dict.fromkeys(("index_put.default", "_unsafe_index_put.default"), fx_scatter.index_put),
    **dict.fromkeys(("scatter.src", "scatter.value", "scatter_add.default", "scatter_reduce.two"), fx_scatter.scatter),
    **dict.fromkeys(("scatter.reduce", "scatter.value_reduce"), fx_scatter.scatter),
    **dict.fromkeys(("sort.default", "sort.stable"), fx_sort.sort),
    **dict.fromkeys(("argsort.default", "argsort.stable"), fx_sort.argsort),
    "topk.default": fx_sort.topk,
    **dict.fromkeys(("div.Tensor_mode", "div.Scalar_mode", "floor_divide.default", "floor_divide.Scalar"), fx_numbers.divide),
    **dict.fromkeys(("ones_like.default", "ones.default", "new_ones.default"), fx_numbers.filled(1)),
    **dict.fromkeys(("zeros_like.default", "zeros.default", "new_zeros.default"), fx_numbers.filled(0)),
    **dict.fromkeys(("full_like.default", "full.default", "new_full.default"), fx_numbers.filled()),
    "var.correction": _spread(root=False),
    "std.correction": _spread(root=True),
    "conv2d.padding": _conv2d_mode,
    "rsub.Scalar": _rsub,
    "index.Tensor": _index,
    "max.dim": _extreme(relax.op.max, relax.op.argmax),
    "min.dim": _extreme(relax.op.min, relax.op.argmin),
    **dict.fromkeys(("any.default", "any.dim", "any.dims"), _any),
    **dict.fromkeys(("remainder.Scalar", "remainder.Tensor", "remainder.Scalar_Tensor"), fx_numbers.remainder),
    **dict.fromkeys((f"__{way}shift__.{kind}" for way in "lr" for kind in ("Scalar", "Tensor")), fx_numbers.shift),
    **dict.fromkeys(
        (f"bitwise_{way}_shift.{kind}" for way in ("left", "right") for kind in ("Tensor", "Tensor_Scalar", "Scalar_Tensor")),
        fx_numbers.shift,
    ),
    **dict.fromkeys(("div.Tensor", "div.Scalar"), _divide),
    **dict.fromkeys(("elu.default", "celu.default"), _elu),
    **{f"{name}.default": fx_numbers.one_by_one(function) for name, function in near_zero.FUNCTIONS.items()},
    **{f"special_{name}.default": fx_numbers.one_by_one(near_zero.FUNCTIONS[name]) for name in ("log1p", "expm1", "erfc")},
    "avg_pool2d.default": _avg_pool2d,
    "grid_sampler_2d.default": _grid_sample,
    "_native_batch_norm_legit_no_training.default": _batch_norm,
    "layer_norm.default": _layer_norm,
    "group_norm.default": _group_norm,
    "instance_norm.default": _instance_norm,
    **dict.fromkeys(("upsample_nearest2d.vec", "upsample_bilinear2d.vec"), upsample),
}
