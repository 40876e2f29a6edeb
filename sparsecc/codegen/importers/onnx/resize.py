"""ONNX's Resize where TVM's is another one: TVM samples by the ratio of the sizes, ONNX by the scales that were given."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsecc.codegen.importers.base import constant_of, shape_of
from sparsecc.codegen.tvm_api import GenericConst, onnx_frontend, relax
from sparsecc.errors import ModelError

_Taps = list[tuple[np.ndarray, np.ndarray]]  # places to read, and what each counts, for every place to write


class ResizeConverter:
    """For TVM's table of converters."""

    @classmethod
    def get_converter(cls, opset: int) -> Any:
        usual = onnx_frontend.Resize.get_converter(opset)

        def convert(builder: Any, inputs: list[Any], attributes: dict[str, Any], params: Any) -> Any:
            given = [None if _is_nothing(x) else x for x in [*inputs, None, None, None][:4]]
            if given[2] is None:
                return usual(builder, _like(inputs, given), attributes, params)
            x, scales = given[0], constant_of(given[2], "scales").astype(np.float32)
            factors = _factors(len(shape_of(x)), scales, attributes)
            ratio = attributes.get("coordinate_transformation_mode") == b"align_corners"  # which depends on the sizes alone
            if "axes" not in attributes and (ratio or all(float(n * f).is_integer() for n, f in zip(shape_of(x), factors, strict=True))):
                return usual(builder, _like(inputs, given), attributes, params)
            for axis, factor in enumerate(factors):
                if factor != 1:
                    x = _along(builder, x, axis, _taps(shape_of(x)[axis], np.float32(factor), attributes))
            return x

        return convert


def _is_nothing(x: Any) -> bool:
    """An input that is left out, or empty, which means the same."""
    return x is None or (isinstance(x, GenericConst) and 0 in x.value.numpy().shape)


def _like(inputs: list[Any], given: list[Any]) -> Any:
    """In the list's own type, which knows inputs that are not there."""
    for place in range(1, len(inputs)):
        inputs[place] = given[place]
    return inputs


def _factors(rank: int, scales: np.ndarray, attributes: dict[str, Any]) -> list[float]:
    axes = [int(axis) % rank for axis in attributes.get("axes", range(rank))]
    named = dict(zip(axes, scales.tolist(), strict=True))
    return [named.get(axis, 1.0) for axis in range(rank)]


def _along(builder: Any, x: Any, axis: int, taps: _Taps) -> Any:
    """The weighted sum of what is read along an axis."""
    result, broad = None, [-1 if i == axis else 1 for i in range(len(shape_of(x)))]
    for places, weights in taps:
        part = builder.emit(relax.op.take(x, relax.const(places), axis=axis))
        if len(taps) > 1:
            part = builder.emit(relax.op.multiply(part, relax.const(weights.reshape(broad))))
        result = part if result is None else builder.emit(relax.op.add(result, part))
    return result


def _taps(size: int, factor: np.float32, attributes: dict[str, Any]) -> _Taps:
    """For every place along a resized axis. In float32 as onnxruntime computes it, since it rounds to places."""
    mode = attributes.get("mode", b"nearest").decode()
    if attributes.get("antialias") or attributes.get("exclude_outside") or mode not in ("nearest", "linear"):
        raise ModelError(f"a {mode} resize by scales that do not give whole sizes, or with antialias or exclude_outside, is not supported")
    at = _coordinates(size, int(np.floor(size * factor)), factor, attributes.get("coordinate_transformation_mode", b"half_pixel").decode())
    last = np.float32(size - 1)
    if mode == "nearest":
        place = _NEAREST[attributes.get("nearest_mode", b"round_prefer_floor").decode()](at)
        return [(np.clip(place, 0, last).astype(np.int64), np.ones_like(at))]
    at = np.clip(at, np.float32(0), last)
    low = np.floor(at)
    return [(low.astype(np.int64), 1 - (at - low)), (np.minimum(low + 1, last).astype(np.int64), at - low)]


def _coordinates(size: int, resized: int, factor: np.float32, mode: str) -> np.ndarray:
    """Where in the original each place lies."""
    i, half = np.arange(resized, dtype=np.float32), np.float32(0.5)
    if mode == "asymmetric":
        return i / factor
    if mode == "tf_half_pixel_for_nn":
        return (i + half) / factor
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and resized > 1):
        return (i + half) / factor - half
    if mode == "pytorch_half_pixel":
        return np.zeros_like(i)
    if mode == "half_pixel_symmetric":
        return np.float32(size / 2 * (1 - resized / (float(factor) * size))) + (i + half) / factor - half
    if mode == "align_corners":
        return i * np.float32(size - 1) / np.float32(max(resized - 1, 1))
    raise ModelError(f"coordinate_transformation_mode {mode} is not supported with scales that do not give whole sizes")


_NEAREST = {
    "round_prefer_floor": lambda at: np.ceil(at - np.float32(0.5)),
    "round_prefer_ceil": lambda at: np.floor(at + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}
