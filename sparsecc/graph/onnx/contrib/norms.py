"""Layer norms with what is added before them, and those without a mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from sparsecc.graph.onnx.contrib.parts import CannotError, Parts


def skip_layer_norm(parts: Parts) -> Sequence[str | None]:
    x, skip, gamma, beta, bias = parts.inputs(5)
    total = parts.sum(x, skip, bias)
    return [_layer_norm(parts, total, gamma, beta, parts.get("epsilon", 1e-12)), None, None, total]


def skip_simplified_layer_norm(parts: Parts) -> Sequence[str | None]:
    x, skip, gamma, bias = parts.inputs(4)
    total = parts.sum(x, skip, bias)
    return [_rms_norm(parts, total, gamma, parts.get("epsilon", 1e-12)), None, None, total]


def simplified_layer_norm(parts: Parts) -> Sequence[str | None]:
    x, gamma = parts.inputs(2)
    if parts.get("axis", -1) != -1 and parts.get("axis", -1) != len(parts.shape(x)) - 1:
        raise CannotError("its norm runs over several axes")
    return [_rms_norm(parts, x, gamma, parts.get("epsilon", 1e-5)), None]


def embed_layer_norm(parts: Parts) -> Sequence[str | None]:
    """Sums of embeddings, normalized; and how many tokens of each sequence its mask shows."""
    ids, segments, words, positions, kinds, gamma, beta, mask, places = parts.inputs(9)
    batch = parts.op("Shape", ids, start=0, end=1)
    tokens = parts.op("Shape", ids, start=1, end=2)
    if places is None:
        place = parts.op("Slice", positions, parts.ints(0), tokens, parts.ints(0))
    else:
        place = parts.op("Gather", positions, places, axis=0)
    kind = None if segments is None or kinds is None else parts.op("Gather", kinds, segments, axis=0)
    total = parts.sum(parts.op("Gather", words, ids, axis=0), place, kind)
    if mask is not None:
        count = parts.op("ReduceSum", mask, parts.ints(1), keepdims=0)
    else:
        count = parts.op("Expand", parts.const(0, "int32"), batch)
    return [_layer_norm(parts, total, gamma, beta, parts.get("epsilon", 1e-12)), count, total]


def _layer_norm(parts: Parts, x: str, gamma: str, beta: str | None, epsilon: float) -> str:
    if parts.known.opset < 17:
        raise CannotError(f"opset {parts.known.opset} has no LayerNormalization")
    return parts.op("LayerNormalization", x, gamma, beta, axis=-1, epsilon=epsilon)


def _rms_norm(parts: Parts, x: str, gamma: str, epsilon: float) -> str:
    """x / √(mean(x²) + ε) · γ, where squares of float16 do not fit into it in float32."""
    narrow = parts.kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    if narrow:
        x, gamma = (parts.op("Cast", value, to=TensorProto.FLOAT) for value in (x, gamma))
    mean = parts.mean_of_last(parts.op("Mul", x, x))
    wide = parts.const(epsilon, np.float32) if narrow else parts.number(epsilon)
    root = parts.op("Sqrt", parts.op("Add", mean, wide))
    result = parts.op("Mul", parts.op("Div", x, root), gamma)
    return parts.op("Cast", result, to=parts.kind) if narrow else result
