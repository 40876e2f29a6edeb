"""Recurrent layers over sequences of different lengths: each of them ends at its own step, and its outputs beyond that are zeros."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsecc.codegen.importers.base import dtype_of, shape_of
from sparsecc.codegen.importers.onnx.operators import reverse_sequence
from sparsecc.codegen.recurrent import RecurrentSpec
from sparsecc.codegen.tvm_api import GenericConst, relax

_CLOSED = 1e4  # a gate that gets this much less is 0, and 1 with this much more


@dataclass(frozen=True)
class Lengths:
    """lengths: [batch], of integers, each from 0 to `steps`; what lies outside is taken for the nearer end."""

    builder: Any
    lengths: Any
    steps: int

    @classmethod
    def of(cls, builder: Any, lengths: Any, steps: int) -> Lengths | None:
        """None where all sequences have all steps."""
        if lengths is None or (isinstance(lengths, GenericConst) and np.all(lengths.value.numpy() == steps)):
            return None
        return cls(builder, builder.emit(relax.op.clip(lengths, 0, steps)), steps)

    def entering(self, spec: RecurrentSpec, projected: Any) -> Any:
        """projected [steps, batch, rows], from the last step to the first where the layer runs so. Beyond the end the gates of an LSTM let
        nothing in and keep its cell."""
        projected = self._turned(projected) if spec.reverse else projected
        if spec.cell != "LSTM":
            return projected
        bias = np.zeros((4, spec.hidden), np.float32)  # of the gates i, o, f, g
        bias[0], bias[2] = -_CLOSED, _CLOSED
        held = relax.op.where(self._before(), relax.const(np.zeros(1, np.float32)), relax.const(bias.reshape(1, 1, -1)))
        return self.builder.emit(relax.op.add(projected, self.builder.emit(held)))

    def leaving(self, spec: RecurrentSpec, results: list[Any]) -> list[Any]:
        """What `directed` gives for a layer that ran forward over what `entering` made: h of all steps, h at the end, c at the end."""
        emit, zero = self.builder.emit, relax.const(np.zeros(1, np.float32))
        y = emit(relax.op.where(self._before(), results[0], zero))
        last = emit(relax.op.sum(emit(relax.op.where(self._before(1, relax.op.equal), y, zero)), axis=[0]))
        return [self._turned(y) if spec.reverse else y, last, *results[2:]]

    def _before(self, ahead: int = 0, compare: Any = relax.op.less) -> Any:
        """[steps, batch, 1]: whether a step, `ahead` of which are added, is less than the length."""
        kind = dtype_of(self.lengths)
        steps = relax.const(np.arange(ahead, self.steps + ahead).reshape(-1, 1, 1), kind)
        ends = self.builder.emit(relax.op.reshape(self.lengths, [1, shape_of(self.lengths)[0], 1]))
        return self.builder.emit(compare(steps, ends))

    def _turned(self, x: Any) -> Any:
        return reverse_sequence(self.builder, [x, self.lengths], {})
