"""Recurrent layers on quantized weights: the compiler knows them, and no shape inference does."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto

from sparsecc.graph.onnx.contrib.parts import CannotError, Parts


def dynamic_quantize_lstm(parts: Parts) -> Sequence[str | None]:
    """The same node, its results cast and reshaped to what they are: so that sizes behind it are known."""
    if len(parts.node.input) < 12:
        raise CannotError("it has no scales")
    x, _, recurrent = parts.inputs(3)
    steps, batch = parts.size(x, 0), parts.size(x, 1)
    directions, hidden = parts.size(recurrent, 0), parts.size(recurrent, 1)
    shapes = [(steps, directions, batch, hidden), (directions, batch, hidden), (directions, batch, hidden)]
    results = zip(parts.kept(), shapes, strict=False)
    return [_as_is(parts, value, shape) if value else None for value, shape in results]


def _as_is(parts: Parts, value: str, shape: Sequence[int]) -> str:
    """With a type and a size that tools read."""
    return parts.op("Reshape", parts.op("Cast", value, to=TensorProto.FLOAT), parts.ints(*shape))
