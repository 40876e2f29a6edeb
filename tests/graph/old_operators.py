"""Operators as files of opsets 7 to 17 have them: every one whose definition changed on the way to 18, in the ways in which it is used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

OLDEST, NEWEST = 7, 17
_drawn = np.random.default_rng(0)


@dataclass(frozen=True)
class Case:
    """inputs: None for one left out.  stored: places of those that are initializers.  since, until: the opsets that know it so."""

    op: str
    inputs: tuple[Any, ...]
    outputs: int
    since: int
    until: int
    stored: tuple[int, ...]
    attributes: dict[str, Any]


def case(
    op: str, *inputs: Any, outputs: int = 1, since: int = OLDEST, until: int = NEWEST, stored: tuple[int, ...] = (), **attributes: Any
) -> Case:
    return Case(op, tuple(None if x is None else np.asarray(x) for x in inputs), outputs, since, until, stored, attributes)


def floats(*shape: int) -> np.ndarray:
    return _drawn.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


X, IMAGE = floats(2, 3, 4), floats(1, 3, 6, 6)
POSITIVE, ROUND = abs(X) + np.float32(0.1), np.round(X)
PLACES = ints(0, 1, 2, 0, 0, 1, 2, 0).reshape(2, 1, 4)
BYTES = _drawn.integers(-100, 100, (2, 3, 4)).astype(np.int8)
ROIS = np.array([[0, 0, 4, 4], [1, 1, 5, 3]], np.float32)
BOXES = np.sort(_drawn.random((1, 6, 2, 2)).astype(np.float32), 2).reshape(1, 6, 4)
PADS = [0, 0, 1, 2, 0, 0, 2, 1]


def cases() -> Iterator[Case]:
    yield from _elementwise()
    yield from _products()
    yield from _pooling()
    yield from _normal()
    yield from _reductions()
    yield from _resizing()
    yield from _moving()
    yield from _indexing()
    yield from _unchanged()


def _elementwise() -> Iterator[Case]:
    for op in ["Abs", "Ceil", "Exp", "Floor", "Neg", "Reciprocal", "Relu", "Sigmoid", "Tanh", "LeakyRelu", "Identity"]:
        yield case(op, X)
    for op in ("Erf", "Sign"):
        yield case(op, X, since=9)
    for op in ("Log", "Sqrt"):
        yield case(op, POSITIVE)
    for op in ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mean", "Sum"]:
        yield case(op, POSITIVE, abs(floats(2, 3, 4)) + np.float32(0.1))
    for op in ["Add", "Mul", "Max", "Sum"]:
        yield case(op, X, floats(4), since=8)
    for op in ("Greater", "Less"):
        yield case(op, ROUND, np.round(floats(2, 3, 4)))
        yield case(f"{op}OrEqual", ROUND, np.round(floats(2, 3, 4)), since=12)
    yield case("Equal", ROUND.astype(np.int32), np.round(floats(2, 3, 4)).astype(np.int32))
    for to in (1, 6, 9, 10):
        yield case("Cast", X, to=to)
    yield case("Clip", X, until=10, min=-0.5, max=0.5)
    yield case("Clip", X, until=10, min=-0.5)
    yield case("Clip", X, until=10, max=0.5)
    yield case("Clip", X, until=10)
    yield case("Clip", X.astype(np.float16), until=10, min=-0.5, max=0.5)
    yield case("Clip", X, np.float32(-0.5), np.float32(0.5), since=11)
    yield case("Clip", X, None, np.float32(0.5), since=11)
    yield case("Mod", ints(7, -7, 5), ints(3, 3, -3), since=10)
    yield case("Mod", X, POSITIVE, since=10, fmod=1)
    yield case("Pow", X, np.float32(2))
    yield case("Pow", X, np.int64(2), since=12)
    yield case("PRelu", IMAGE, floats(3, 1, 1))
    yield case("PRelu", X, floats(4))
    yield case("IsNaN", np.where(X > 1, np.float32(np.nan), X), since=9)
    yield case("Where", X > 0, X, floats(4), since=9)
    yield case("Dropout", X)
    yield case("Dropout", X, until=11, ratio=0.3)
    yield case("Dropout", X, outputs=2, since=10, until=11)
    yield case("Dropout", X, np.float32(0.3), since=12)


def _products() -> Iterator[Case]:
    yield case("MatMul", floats(2, 3, 4), floats(4, 5), stored=(1,))
    yield case("Gemm", floats(3, 4), floats(4, 5), floats(5), alpha=0.5, beta=2.0)
    yield case("Gemm", floats(4, 3), floats(5, 4), floats(3, 1), transA=1, transB=1, stored=(1, 2))
    yield case("Gemm", floats(3, 4), floats(4, 5), since=11)
    yield case("Conv", IMAGE, floats(4, 3, 3, 3), floats(4), stored=(1, 2), pads=[1, 1, 1, 1])
    yield case("Conv", IMAGE, floats(4, 3, 3, 3), auto_pad="SAME_LOWER", strides=[2, 2])
    yield case("ConvTranspose", IMAGE, floats(3, 4, 3, 3), strides=[2, 2], output_padding=[1, 1])
    yield case("ConvTranspose", IMAGE, floats(3, 4, 3, 3), strides=[2, 2], output_shape=[12, 12])
    yield case("ConvTranspose", IMAGE, floats(3, 4, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER")
    for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        wide = gates * 6
        yield case(op, floats(5, 2, 3), floats(1, wide, 3), floats(1, wide, 6), floats(1, 2 * wide), outputs=2, hidden_size=6)
        both = {"hidden_size": 6, "direction": "bidirectional"}
        yield case(op, floats(5, 2, 3), floats(2, wide, 3), floats(2, wide, 6), outputs=2, **both)
    yield case("DequantizeLinear", BYTES, np.float32(0.1), np.int8(3), since=10)
    yield case("DequantizeLinear", BYTES, POSITIVE[0, :, 0], np.zeros(3, np.int8), since=13)
    yield case("QuantizeLinear", X, np.float32(0.02), np.uint8(128), since=10)
    yield case("NegativeLogLikelihoodLoss", floats(3, 5), ints(1, 0, 4), since=12, reduction="sum")
    yield case("SoftmaxCrossEntropyLoss", floats(3, 5), ints(1, 0, 4), outputs=2, since=12, reduction="none")


def _pooling() -> Iterator[Case]:
    for op in ("AveragePool", "MaxPool"):
        yield case(op, IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        yield case(op, IMAGE, kernel_shape=[2, 2], auto_pad="SAME_UPPER")
        yield case(op, IMAGE, since=10, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1], ceil_mode=1)
    yield case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
    yield case("MaxPool", IMAGE, outputs=2, since=8, kernel_shape=[2, 2], strides=[2, 2], storage_order=1)
    yield case("MaxPool", IMAGE, since=10, kernel_shape=[2, 2], dilations=[2, 2])
    yield case("MaxUnpool", floats(1, 1, 2, 2), ints(5, 7, 13, 15).reshape(1, 1, 2, 2), since=9, kernel_shape=[2, 2], strides=[2, 2])
    yield case("LpPool", IMAGE, kernel_shape=[2, 2], p=3)
    for mode in ("avg", "max"):
        yield case("RoiAlign", IMAGE, ROIS, ints(0, 0), since=10, output_height=2, output_width=2, mode=mode, sampling_ratio=1)


def _normal() -> Iterator[Case]:
    for op in ("Softmax", "LogSoftmax", "Hardmax"):
        yield case(op, X)
        for axis in (0, 1, 2):
            yield case(op, X, axis=axis)
        for axis in (-1, -2):
            yield case(op, X, since=11, axis=axis)
    four = (POSITIVE[0, :, 0], floats(3), floats(3), POSITIVE[1, :, 0])
    yield case("BatchNormalization", IMAGE, *four, stored=(1, 2, 3, 4))
    yield case("BatchNormalization", IMAGE, *four, epsilon=1e-2)
    yield case("LRN", IMAGE, size=3)
    yield case("MeanVarianceNormalization", IMAGE, since=9)
    yield case("MeanVarianceNormalization", IMAGE, since=9, axes=[1, 2])


def _reductions() -> Iterator[Case]:
    for op in ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare", "Sum"]:
        listed = 12 if op == "Sum" else NEWEST  # the last opset whose axes are an attribute
        yield case(f"Reduce{op}", POSITIVE)
        yield case(f"Reduce{op}", POSITIVE, keepdims=0)
        yield case(f"Reduce{op}", POSITIVE, until=listed, axes=[0, 2], keepdims=0)
        yield case(f"Reduce{op}", POSITIVE, since=11, until=listed, axes=[-1])
    yield case("ReduceSum", X, ints(1), since=13, keepdims=0)
    yield case("ReduceSum", X, since=13, noop_with_empty_axes=1)
    for op in ("ArgMax", "ArgMin"):
        yield case(op, ROUND, axis=1, keepdims=0)
        yield case(op, ROUND, since=11, axis=-1)
        yield case(op, ROUND, since=12, axis=-1, select_last_index=1)
    yield case("CumSum", X, np.int64(1), since=11, exclusive=1, reverse=1)


def _resizing() -> Iterator[Case]:
    none = np.array([], np.float32)
    for factors in ([1, 1, 2, 2], [1, 1, 1.5, 2.5], [1, 1, 0.5, 0.5], [1, 1, 0.6, 2], [1, 1, 0.7, 0.7]):
        scales = np.array(factors, np.float32)
        for mode in ("nearest", "linear"):
            if min(factors) >= 1:
                yield case("Upsample", IMAGE, until=8, scales=[float(factor) for factor in factors], mode=mode)
                yield case("Upsample", IMAGE, scales, since=9, until=9, mode=mode)
            yield case("Resize", IMAGE, scales, since=10, until=10, stored=(1,), mode=mode)
            yield case("Resize", IMAGE, scales, since=10, until=10, mode=mode)
            for places in ("half_pixel", "asymmetric", "align_corners"):
                yield case("Resize", IMAGE, none, scales, since=11, stored=(1, 2), mode=mode, coordinate_transformation_mode=places)
        yield case("Resize", IMAGE, none, scales, since=11, stored=(1, 2), mode="cubic")
    yield case("Resize", IMAGE, none, none, ints(1, 3, 9, 4), since=11, stored=(1, 2, 3), mode="linear")
    for mode in ("constant", "reflect", "edge"):
        yield case("Pad", IMAGE, until=10, pads=PADS, mode=mode)
        yield case("Pad", IMAGE, ints(*PADS), since=11, mode=mode)
    yield case("Pad", IMAGE.astype(np.float16), until=10, pads=PADS, value=3.0)
    yield case("Pad", X.astype(np.float64), until=10, pads=[0, -1, 1, 0, 0, 0])
    yield case("Pad", IMAGE, ints(*PADS), np.float32(3), since=11)


def _moving() -> Iterator[Case]:
    yield case("Concat", X, floats(2, 5, 4), axis=1)
    yield case("Concat", X, floats(2, 3, 1), since=11, axis=-1)
    yield case("DepthToSpace", floats(1, 8, 2, 3), blocksize=2)
    yield case("DepthToSpace", floats(1, 8, 2, 3), since=11, blocksize=2, mode="CRD")
    yield case("SpaceToDepth", floats(1, 2, 4, 6), blocksize=2)
    yield case("Expand", floats(3, 1), ints(2, 3, 4), since=8)
    yield case("Expand", floats(3, 1), ints(2, 3, 4), since=8, stored=(1,))
    yield case("Flatten", X)
    yield case("Flatten", X, since=11, axis=-1)
    yield case("Reshape", X, ints(4, 6))
    yield case("Reshape", X, ints(0, 0, -1), stored=(1,))
    yield case("Shape", X)
    yield case("Shape", X, since=15, start=1)
    yield case("Size", X)
    yield case("Slice", X, until=9, starts=[0, 1], ends=[2, 3], axes=[0, 2])
    yield case("Slice", X, until=9, starts=[1], ends=[-1])
    yield case("Slice", X, ints(3), ints(-9), ints(2), ints(-2), since=10)
    yield case("Split", floats(2, 6), outputs=3, axis=1)
    yield case("Split", floats(6, 2), outputs=2, until=12, split=[2, 4])
    yield case("Split", floats(2, 6), ints(2, 4), outputs=2, since=13, axis=1)
    yield case("Squeeze", floats(1, 3, 1))
    yield case("Squeeze", floats(1, 3, 1), until=12, axes=[0])
    yield case("Squeeze", floats(1, 3, 1), ints(0), since=13)
    yield case("Unsqueeze", X, until=12, axes=[0, 2])
    yield case("Unsqueeze", X, ints(0), since=13)
    yield case("Tile", X, ints(2, 1, 3))
    yield case("Transpose", X, perm=[1, 2, 0])


def _indexing() -> Iterator[Case]:
    yield case("Gather", X, ints(1, 0), axis=1)
    yield case("Gather", X, ints(-1, 0), since=11, axis=1)
    yield case("GatherElements", X, PLACES, since=11, axis=1)
    yield case("GatherND", X, ints(0, 1, 1, 2).reshape(2, 2), since=11)
    yield case("GatherND", X, ints(1, 2).reshape(2, 1), since=12, batch_dims=1)
    yield case("Scatter", X, PLACES, floats(2, 1, 4), since=9, until=10, axis=1)
    yield case("ScatterElements", X, PLACES, floats(2, 1, 4), since=11, axis=1)
    yield case("ScatterElements", X, PLACES, floats(2, 1, 4), since=16, axis=1, reduction="add")
    yield case("ScatterND", X, ints(0, 1, 1, 2).reshape(2, 2), floats(2, 4), since=11)
    yield case("Compress", X, np.array([True, False]), since=9, axis=0)
    yield case("NonZero", ROUND, since=9)
    yield case("OneHot", ints(1, 0, 2), ints(4), np.array([2, 5], np.float32), since=9, axis=0)
    yield case("TopK", X, outputs=2, until=9, k=2, axis=1)
    yield case("TopK", X, ints(2), outputs=2, since=10)
    scores = _drawn.random((1, 2, 6)).astype(np.float32)
    yield case("NonMaxSuppression", BOXES, scores, ints(3), np.array([0.5], np.float32), np.array([0.3], np.float32), since=10)


def _unchanged() -> Iterator[Case]:
    """What onnxruntime has in the standard's domain before the standard does."""
    yield case("LayerNormalization", X, floats(4), floats(4), axis=-1)
    yield case("SimplifiedLayerNormalization", X, floats(4), axis=-1)
