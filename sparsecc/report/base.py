"""What a report holds; the JSON is what other programs read, tables and pages are made from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from sparsecc.report.reading import made

Decision = Literal["sparse", "dense", "structured", "skipped"]
_VALUE_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
MASKED, ORIGINAL = "masked model", "model as it came"  # with whose outputs others are compared


@dataclass(frozen=True, kw_only=True)
class HeadReport:
    """One head of a block-sparse attention. order: of its tokens, by the grid's axes from the outermost in (FHW is raster order), Morton or
    Hilbert; "own" for any other, "" for the model's.  density: the share of its blocks that are kept.  lost: the share of its attention
    mass outside them; error: ‖o − o'‖ / ‖o‖ of its output: both on the calibration inputs, and for a head that is dense because of it what
    it would have cost; None where nothing was measured."""

    order: str
    density: float
    lost: float | None = None
    error: float | None = None


@dataclass(frozen=True, kw_only=True)
class SiteReport:
    """One site, or a weight that belongs to none and so is skipped. Times in µs, sizes in bytes; None where nothing was measured or does
    not apply.

    shape: of the weight as it is now.  bytes_dense: of the weight as it came, which may have had more outputs or inputs.
    bytes_packed, predicted_us, measured_us: of the sparse (structured, quantized, smaller) form, also where the dense one stays.
    bound_us: the least that peak and bandwidth of this machine allow the kernel of measured_us.
    dtype: of the weight as it is stored; float32 where compiled code has no kernels for its numbers.  dense_us: of float32.  A quantized
    layer has its dtype at the head of its format, and its decision says whether the kernel skips zeros. Of a block-sparse attention, what
    q, k and v are rounded to; its kernel says what is multiplied.
    refused: what each pass that left it alone said, in the order of the recipe: "prune: already packed as csr".
    heads: of a block-sparse attention.
    """

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
    bound_us: float | None = None
    output_error: float | None = None  # relative, against the dense model's output at this site
    decision: Decision = "dense"
    reason: str = ""
    refused: tuple[str, ...] = ()
    heads: tuple[HeadReport, ...] = ()

    @property
    def quantized(self) -> bool:
        """Whether its numbers are narrower than the model's."""
        return (self.format or "").replace("/", ":").partition(":")[0] == self.dtype

    @property
    def bytes_kept(self) -> int:
        """Of the form that stays."""
        packed = self.bytes_packed if self.decision in ("sparse", "structured") else None
        if packed is not None or self.bytes_dense is None:
            return packed or 0
        if self.dtype in _VALUE_BYTES:
            return math.prod(self.shape) * _VALUE_BYTES[self.dtype]
        return self.bytes_packed if self.quantized and self.bytes_packed is not None else self.bytes_dense

    @property
    def chosen_us(self) -> float:
        """Of the kernel that stays, 0 where nothing was measured."""
        return (self.dense_us if self.decision == "dense" and not self.quantized else self.measured_us) or 0.0


@dataclass(frozen=True, kw_only=True)
class Check:
    """The whole model's outputs against those of the masked dense model, and of the model as it came, run by the host.

    max_rel: of the worst output, relative to the largest magnitude in it, or to 0.001 where all are less and none has the other sign.
    against: with which of the two the worst output was compared.  reason: why the two cannot be compared by numbers, "" where they can.
    """

    max_abs: float
    max_rel: float
    cosine: float
    against: str = MASKED
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """On what the output errors and the check were measured, and on what machine the times; None where nothing ran there.

    samples: sets of inputs, by where they came from: example, calibration, random; the errors are those of the first set.
    shapes: of the first set, by input.
    """

    samples: dict[str, int]
    shapes: dict[str, tuple[int, ...]]
    threads: int | None = None
    cpu: str | None = None


@dataclass(frozen=True, kw_only=True)
class KernelReport:
    """What was timed on a GPU for layers of one shape, stored in one form, and one number of tokens. us: by candidate.  chosen: one of
    them; where dense is faster for as many tokens as the example has, the layers stay dense."""

    form: str
    shape: tuple[int, ...]
    tokens: int
    us: dict[str, float]
    chosen: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was done to a model, what it cost and what was measured. `str()` is a table.

    sites: every layer with a weight, and every weight that no pass works on.  notes: sentences on how the model was read, on passes that
    changed nothing, and on what became of the file.  kernels: on a GPU, what was timed to choose by.
    """

    sparsecc: str  # version
    model: str
    target: str
    sites: tuple[SiteReport, ...] = ()
    totals: dict[str, float] = field(default_factory=dict[str, float])
    check: Check | None = None
    measured: Measured | None = None
    notes: tuple[str, ...] = ()
    kernels: tuple[KernelReport, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """Inverse of `to_dict`, also after JSON. Raises ValueError for anything else."""
        report = made(cls, data)
        missing = sorted(set(totals(())) - set(report.totals)) if report.totals else []
        if missing:
            raise ValueError(f"totals: lack {missing[0]!r}")
        return report

    def to_json(self, path: str | PathLike[str] | None = None) -> str:
        """The report as JSON; written to `path` when one is given."""
        from sparsecc.files import json_text

        return _written(path, json_text(self.to_dict()))

    def to_html(self, path: str | PathLike[str] | None = None) -> str:
        """The report as one self-contained page; written to `path` when one is given."""
        from sparsecc.report.html import page

        return _written(path, page(self))

    def explain(self) -> str:
        """Per site: what it is, what was done, and why not more."""
        from sparsecc.report.table import reasons

        return reasons(self)

    def __str__(self) -> str:
        from sparsecc.report.table import text

        return text(self)


def totals(sites: Sequence[SiteReport]) -> dict[str, float]:
    """Sums over the rows: bytes and the share of zeros are of all weights of the model.

    `dense_us` and `chosen_us` (what runs now) are over the sites at which both kernels were timed.
    """
    timed = [site for site in sites if site.measured_us is not None and site.dense_us is not None]
    bytes_dense = sum(site.bytes_dense or 0 for site in sites)
    return {
        "sites": len(sites),
        **{decision: sum(site.decision == decision for site in sites) for decision in ("sparse", "dense", "structured", "skipped")},
        "sparsity": sum(site.sparsity * (site.bytes_dense or 0) for site in sites) / bytes_dense if bytes_dense else 0.0,
        "bytes_dense": bytes_dense,
        "bytes_kept": sum(site.bytes_kept for site in sites),
        "dense_us": sum(site.dense_us or 0.0 for site in timed),
        "chosen_us": sum(site.chosen_us for site in timed),
    }


def _written(path: str | PathLike[str] | None, text: str) -> str:
    if path is not None:
        from sparsecc.files import write_text

        write_text(Path(path), text)
    return text
