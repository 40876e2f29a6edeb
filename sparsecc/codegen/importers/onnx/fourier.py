"""ONNX's DFT and STFT as products with constant matrices: sizes are fixed, and few hundred points are what models have."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sparsecc.codegen.importers.base import constant_of, converter, shape_of
from sparsecc.codegen.tvm_api import relax
from sparsecc.errors import ModelError

_LARGEST = 1 << 24  # numbers of a matrix


def fourier_converters() -> dict[str, Any]:
    """By op_type, for TVM's table of converters."""
    return {"DFT": _Dft, "STFT": converter(_stft)}


class _Dft:
    """Its axis became an input in opset 20."""

    @classmethod
    def get_converter(cls, opset: int) -> Any:
        return lambda builder, inputs, attributes, params: _dft(builder, list(inputs), attributes, opset)


def _dft(builder: Any, inputs: list[Any], attributes: dict[str, Any], opset: int) -> Any:
    """x: [..., points, ..., 1 or 2], real numbers or complex ones  ->  [..., bins, ..., 2]."""
    x, length, place = (*inputs, None, None)[:3]
    shape = shape_of(x)
    axis = int(attributes.get("axis", 1)) if opset < 20 else -2 if place is None else int(constant_of(place, "axis").reshape(()))
    axis %= len(shape)
    points = shape[axis] if length is None else int(constant_of(length, "dft_length").reshape(()))
    onesided, inverse = bool(attributes.get("onesided", 0)), bool(attributes.get("inverse", 0))
    if onesided and inverse:
        raise ModelError("an inverse transform of one side is not supported")
    order = [*(i for i in range(len(shape)) if i not in (axis, len(shape) - 1)), axis, len(shape) - 1]
    matrix = _matrix(shape[axis], points, shape[-1], inverse=inverse, onesided=onesided)
    others = [shape[i] for i in order[:-2]]
    x = builder.emit(relax.op.permute_dims(x, order))
    x = builder.emit(relax.op.reshape(x, [math.prod(others), shape[axis] * shape[-1]]))
    y = builder.emit(relax.op.matmul(x, relax.const(matrix)))
    y = builder.emit(relax.op.reshape(y, [*others, matrix.shape[1] // 2, 2]))
    return builder.emit(relax.op.permute_dims(y, [order.index(i) for i in range(len(shape))]))


def _stft(builder: Any, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    """x: [batch, samples, 1 or 2]  ->  [batch, frames, bins, 2], each frame `step` samples behind the one before."""
    x, step, window, length = (*inputs, None, None)[:4]
    batch, samples, parts = (*shape_of(x), 1)[:3]
    shown = None if window is None else constant_of(window, "window").astype(np.float32)
    frame = int(constant_of(length, "frame_length").reshape(())) if length is not None else samples if shown is None else len(shown)
    stride = int(constant_of(step, "frame_step").reshape(()))
    frames = (samples - frame) // stride + 1
    if frames < 1:
        raise ModelError(f"its {samples} samples are fewer than a frame of {frame}")
    matrix = _matrix(frame, frame, parts, inverse=False, onesided=bool(attributes.get("onesided", 1)))
    if shown is not None:
        matrix = np.repeat(shown, parts)[:, None] * matrix
    places = (stride * np.arange(frames)[:, None] + np.arange(frame)).reshape(-1)
    x = builder.emit(relax.op.reshape(x, [batch, samples, parts]))
    x = builder.emit(relax.op.take(x, relax.const(places), axis=1))
    x = builder.emit(relax.op.reshape(x, [batch, frames, frame * parts]))
    y = builder.emit(relax.op.matmul(x, relax.const(np.ascontiguousarray(matrix, np.float32))))
    return builder.emit(relax.op.reshape(y, [batch, frames, matrix.shape[1] // 2, 2]))


def _matrix(given: int, points: int, parts: int, *, inverse: bool, onesided: bool) -> np.ndarray:
    """[given · parts, bins · 2] over numbers that are cut or padded to `points`, real and imaginary parts beside each other."""
    bins = points // 2 + 1 if onesided else points
    if given * parts * bins * 2 > _LARGEST:
        raise ModelError(f"a transform of {points} points takes a matrix of more than {_LARGEST >> 20} million numbers")
    turns = np.outer(np.arange(given), np.arange(bins)) % points / points
    factor = np.exp((2j if inverse else -2j) * np.pi * turns) / (points if inverse else 1)
    factor[points:] = 0
    matrix = np.empty((given, parts, bins, 2), np.float32)
    matrix[:, 0] = np.stack([factor.real, factor.imag], axis=-1)
    if parts == 2:
        matrix[:, 1] = np.stack([-factor.imag, factor.real], axis=-1)
    return matrix.reshape(given * parts, bins * 2)
