"""What a report holds; the JSON is DESIGN's contract, tables and pages are made from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Decision = Literal["sparse", "dense", "structured", "skipped"]


@dataclass(frozen=True, kw_only=True)
class SiteReport:
    """One site. Times in µs, sizes in bytes; None where nothing was measured or does not apply."""

    name: str
    kind: str
    shape: tuple[int, ...]
    pattern: str | None = None
    sparsity: float = 0.0
    dtype: str = "float32"
    format: str | None = None
    bytes_dense: int | None = None
    bytes_packed: int | None = None
    kernel: str | None = None
    predicted_us: float | None = None
    measured_us: float | None = None
    dense_us: float | None = None
    output_error: float | None = None  # relative, against the dense model's output at this site
    decision: Decision = "dense"
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Check:
    """The whole model's outputs against the masked dense model run by the host. max_rel is relative to the largest magnitude."""

    max_abs: float
    max_rel: float
    cosine: float


@dataclass(frozen=True, kw_only=True)
class Report:
    sparsecc: str  # version
    model: str
    target: str
    sites: tuple[SiteReport, ...] = ()
    totals: dict[str, Any] = field(default_factory=dict)
    check: Check | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
