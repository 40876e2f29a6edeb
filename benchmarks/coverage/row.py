"""One row of the table, and what its words mean."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

TOLERANCE = 1e-3  # relative to an output's largest magnitude
TOLERANCE_ROUNDED = 0.03  # of a model that rounds activations to integers: a difference in the last bit may become a whole step


@dataclass(frozen=True)
class Row:
    """What became of one model.

    status: right; wrong (it compiled, its answers are others); refused (a UserError); hang (no end within the limit); memory (more than the
    limit); signal N; traceback (any other exception); no reference (the model itself does not run here, or answers differently each time).
    phase: in which it ended: reference, compile, run, speed or done.
    weights: numbers in weights, see `weights`.  seen: of them, in layers that passes work on.  named: those too that the report only names.
    layers: how many weights.  sites: how many rows of layers that passes work on.
    times: how many times faster than onnxruntime or torch in eager mode.  machine: and versions, on which it was measured.
    """

    name: str
    source: str
    status: str
    phase: str = "reference"
    message: str = ""
    max_rel: float | None = None
    layers: int | None = None
    sites: int | None = None
    weights: int | None = None
    seen: int | None = None
    named: int | None = None
    compile_seconds: float | None = None
    ms: float | None = None
    times: float | None = None
    machine: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def kind(self) -> str:
        """transformers, timm, ..., onnx."""
        return self.name.split("/", 1)[0]

    @property
    def counts(self) -> bool:
        """Whether it says something of the compiler."""
        return self.status != "no reference"
