"""The account of what was done: from graphs, pass results and codegen's choices to a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

import sparsecc
from sparsecc.graph.sites import Conv2d, WeightSite
from sparsecc.report.base import Check, Report, SiteReport, totals

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.api.rewriting import Rewritten
    from sparsecc.codegen.choose import Choice

SITES_PER_RUN = 16  # how many layers' inputs are held at once


def report(result: Rewritten, target: str) -> Report:
    """What the passes did. Output errors are measured when there are inputs to run; `chosen` adds what codegen decided."""
    reasons = _reasons(result)
    errors = output_errors(result)
    dense = {site.name: site for site in result.masked.sites(WeightSite)}
    sites = tuple(
        _site(site, dense.get(site.name, site), reasons.get(site.name, ""), errors.get(site.name))
        for site in result.graph.sites(WeightSite)
    )
    return Report(sparsecc=sparsecc.__version__, model=result.name, target=target, sites=sites, totals=totals(sites))


def _site(site: WeightSite, dense: WeightSite, reason: str, error: float | None) -> SiteReport:
    weight = dense.weight  # of the masked model: not packed, unless it came so
    row = SiteReport(
        name=site.name,
        kind=site.kind,
        shape=tuple(weight.shape),
        sparsity=1 - int(weight.count_nonzero()) / max(1, weight.numel()),
        dtype=str(weight.dtype).removeprefix("torch."),
        bytes_dense=weight.numel() * weight.element_size(),
        output_error=error,
        decision="skipped" if reason else "dense",
        reason=reason or "no pass changed it",
    )
    if site.packed is not None:
        packed = site.packed
        row = replace(row, pattern=packed.format.pattern, format=packed.format.key, bytes_packed=packed.nbytes, decision="sparse")
        row = replace(row, reason=f"packed in {packed.nbytes / max(1, row.bytes_dense or 1):.2f} of the dense bytes")
    if site.structured is not None:
        key, nbytes = site.structured.structure.key, site.structured.nbytes
        row = replace(row, pattern=key, format=key, bytes_packed=nbytes, decision="structured")
        row = replace(row, reason=f"factored into {nbytes / max(1, row.bytes_dense or 1):.2f} of the dense bytes")
    return row


def chosen(report: Report, choices: Sequence[Choice]) -> Report:
    """The report with the kernels that codegen picked for packed sites, and why."""
    by_site = {choice.site: choice for choice in choices}
    sites = tuple(_with_choice(row, by_site[row.name]) if row.name in by_site else row for row in report.sites)
    return replace(report, sites=sites, totals=totals(sites))


def _with_choice(row: SiteReport, choice: Choice) -> SiteReport:
    times = {"predicted_us": choice.predicted_us, "measured_us": choice.measured_us, "dense_us": choice.dense_us}
    row = replace(row, kernel=choice.kernel, **times)
    return row if row.bytes_packed is None else replace(row, decision=choice.decision, reason=choice.reason or row.reason)


def _reasons(result: Rewritten) -> dict[str, str]:
    """The first refusal at each site, unless a later pass took the site after all: what later passes miss follows from it."""
    reasons: dict[str, str] = {}
    for _, outcome in result.steps:
        for match in outcome.matches:
            if match.refused is not None:
                reasons.setdefault(match.site.name, match.refused.reason)
            else:
                reasons.pop(match.site.name, None)
    return reasons


def output_errors(result: Rewritten) -> dict[str, float]:
    """Per changed site ‖(W − W')x‖ / ‖Wx‖, x being what enters the site in the original model. Empty when nothing can be run."""
    if result.example is None or result.original is None:
        return {}
    changed = {site.name: site for site in result.masked.sites(WeightSite)}
    pairs = [(site, changed[site.name]) for site in result.original.sites(WeightSite) if site.name in changed]
    pairs = [(before, after) for before, after in pairs if not _same_weight(before.weight, after.weight)]
    errors: dict[str, float] = {}
    for start in range(0, len(pairs), SITES_PER_RUN):
        group = pairs[start : start + SITES_PER_RUN]
        taps = result.original.run(result.example, [before.name for before, _ in group]).taps
        errors |= {before.name: _relative_error(before, after, taps[before.name][0]) for before, after in group}
    return errors


def _same_weight(before: Tensor, after: Tensor) -> bool:
    return before.data_ptr() == after.data_ptr() or bool(before.equal(after))


def _relative_error(before: WeightSite, after: WeightSite, x: Tensor) -> float:
    whole = _apply(before, before.weight, x).norm()
    return float(_apply(before, before.weight - after.weight, x).norm() / whole) if whole else 0.0


def _apply(site: WeightSite, weight: Tensor, x: Tensor) -> Tensor:
    from torch.nn import functional

    if not isinstance(site, Conv2d):
        return functional.linear(x, weight.to(x.dtype))
    top, left, bottom, right = site.padding
    padded = functional.pad(x, (left, right, top, bottom))
    return functional.conv2d(padded, weight.to(x.dtype), None, site.stride, 0, site.dilation, site.groups)


def checked(report: Report, outputs: Iterable[Any], expected: Iterable[Any]) -> Report:
    """The report with the worst of its check and this comparison of two sets of outputs."""
    checks = [_compare(np.asarray(a), np.asarray(b)) for a, b in zip(outputs, expected, strict=True)]
    checks = [*checks, report.check] if report.check else checks
    worst = Check(max_abs=max(c.max_abs for c in checks), max_rel=max(c.max_rel for c in checks), cosine=min(c.cosine for c in checks))
    return replace(report, check=worst)


def _compare(output: np.ndarray, expected: np.ndarray) -> Check:
    """Infinities and NaN in the same places count as equal, elsewhere as an infinite difference."""
    if output.shape != expected.shape:
        return Check(max_abs=np.inf, max_rel=np.inf, cosine=-1.0)
    a, b = output.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return Check(max_abs=np.inf, max_rel=np.inf, cosine=-1.0)
    a, b = a[finite], b[finite]
    if not a.size:
        return Check(max_abs=0.0, max_rel=0.0, cosine=1.0)
    max_abs, largest = float(np.abs(a - b).max()), float(np.abs(b).max())
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(a @ b) / norms if norms else float(max_abs == 0)
    return Check(max_abs=max_abs, max_rel=max_abs / largest if largest else (np.inf if max_abs else 0.0), cosine=cosine)
