"""What a recurrent layer computes over all its steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ACTIVATIONS = ("Sigmoid", "Tanh", "Relu", "HardSigmoid")  # as ONNX calls them
MULTIPLE = 16  # what `hidden` is padded to: the lanes of every target divide it
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_GROUP = 4  # sequences at a time, at most


@dataclass(frozen=True)
class RecurrentSpec:
    """hidden: padded.  depth: hidden as it is.  activations: of the gates, of the candidate, of the output (LSTM).
    reset_after: of a GRU, whether r meets R·h, not h.  reverse: from the last step to the first.  dtype: of R; eight bits: see
    `quantized_lstm`."""

    cell: str
    steps: int
    batch: int
    hidden: int
    depth: int
    activations: tuple[str, ...]
    reverse: bool = False
    reset_after: bool = False
    dtype: str = "float32"

    @property
    def rows(self) -> int:
        return GATES[self.cell] * self.hidden

    @property
    def group(self) -> int:
        """Sequences that one job runs side by side."""
        return next(n for n in (_GROUP, 2, 1) if self.batch % n == 0)

    @property
    def width(self) -> int:
        """Rows of a block, of which no gate's end lies in the middle. With `group`, 64 accumulators."""
        multiples = self.hidden // MULTIPLE
        return MULTIPLE * next(n for n in range(_GROUP // self.group, 0, -1) if multiples % n == 0)

    @property
    def out(self) -> tuple[int, int, int]:
        """h of each step; of an LSTM, c of the last one behind it."""
        return (self.steps + (self.cell == "LSTM"), self.batch, self.hidden)


SCALES, ZEROS, EXTRA = 3, 7, 11  # rows of `extra`, behind the peepholes of i, o and f: of each gate; of each gate; how many they are


def extra(spec: RecurrentSpec, peepholes: np.ndarray, scales: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    """The quantities of an LSTM of eight bits beside its weight, [EXTRA, hidden].

    peepholes: [3, hidden].  scales, zeros: [rows], of the recurrent weight."""
    return np.concatenate([peepholes, scales.reshape(4, spec.hidden), zeros.reshape(4, spec.hidden)]).astype(np.float32)
