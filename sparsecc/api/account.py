"""The account of what was done: from graphs, pass results and codegen's choices to a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sparsecc._version import __version__
from sparsecc.api.rewriting import stored_share
from sparsecc.attention.base import BlockMap
from sparsecc.codegen.numbers import SIZE
from sparsecc.graph.sites import Attention, Conv2d, Unseen, WeightSite
from sparsecc.report.base import HeadReport, Report, SiteReport, totals

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.api.rewriting import Rewritten
    from sparsecc.codegen.choose import Choice
    from sparsecc.forms import Form
    from sparsecc.graph.base import Graph
    from sparsecc.graph.inputs import Sample
    from sparsecc.precisions.base import Quantized
    from sparsecc.report.ledger import Ledger

SITES_PER_RUN = 16  # how many layers' inputs are held at once


def report(result: Rewritten, target: str) -> Report:
    """What the passes did. Output errors are measured when there are inputs to run; `chosen` adds what codegen decided."""
    ledger, errors = result.ledger, output_errors(result)
    masked = {site.name: site for site in result.masked.sites(WeightSite)}
    came = {site.name: site for site in (result.original or result.masked).sites(WeightSite)}
    looked_at = ledger.sites()
    rows = []
    for site in result.graph.sites():
        if isinstance(site, Attention) and (site.name in looked_at or site.block_map is not None):
            rows.append(_attention(site, ledger, errors.get(site.name)))
        if isinstance(site, WeightSite):
            rows.append(_site(site, masked.get(site.name, site), came.get(site.name, site), ledger, errors.get(site.name)))
    sites = (*rows, *map(_unseen, result.graph.unseen()))
    notes = (*result.graph.notes, *result.notes)
    return Report(sparsecc=__version__, model=result.name, target=target, sites=sites, totals=totals(sites), notes=notes)


def _unseen(weight: Unseen) -> SiteReport:
    """A row for a weight that no pass works on."""
    return SiteReport(
        name=weight.name,
        kind=weight.kind,
        shape=weight.shape,
        sparsity=weight.sparsity,
        dtype=weight.dtype,
        bytes_dense=weight.nbytes,
        decision="skipped",
        reason=weight.reason,
    )


def _site(site: WeightSite, masked: WeightSite, came: WeightSite, ledger: Ledger, error: float | None) -> SiteReport:
    """A row for a layer. masked: before it was packed.  came: as in the original model."""
    reason, deeds, size = ledger.reason(site.name), ledger.deeds(site.name), math.prod(masked.shape)
    row = SiteReport(
        name=site.name,
        kind=site.kind,
        shape=tuple(masked.shape),
        sparsity=masked.zeros / max(1, size),
        dtype=masked.dtype,
        bytes_dense=math.prod(came.shape) * _itemsize(came.dtype),
        output_error=error,
        pattern=_pattern(masked, ledger),
        decision="skipped" if reason and not deeds else "dense",
        reason="; refused: ".join(filter(None, (deeds, reason))) or "no pass changed it",
        refused=ledger.refusals(site.name),
    )
    if masked.shape != came.shape:
        row = replace(row, bytes_packed=size * _itemsize(masked.dtype), decision="structured")
    return row if site.form is None else _with_form(row, site.form, deeds)


def _with_form(row: SiteReport, form: Form, deeds: str) -> SiteReport:
    """The row of a layer whose weight is not dense."""
    size = f"{form.deed} {form.nbytes / max(1, row.bytes_dense or 1):.2f} of the dense bytes"
    reason = size if form.word == "packed" else deeds or (size if form.nonzeros is None else f"{form.word} as it came")
    decision = "sparse" if form.sparse_format is not None else "structured" if form.nonzeros is None else "dense"
    row = replace(row, pattern=row.pattern or form.pattern, format=form.key, bytes_packed=form.nbytes)
    return replace(row, dtype=form.stored_dtype, decision=decision, reason=reason)


def _pattern(masked: WeightSite, ledger: Ledger) -> str | None:
    """What the weight was pruned to, where it still has it: filled or in another order it may have none."""
    asked = ledger.asked(masked.name)
    if asked is None or asked.pattern is None or asked.stored is None:
        return None
    return asked.pattern if stored_share(asked.pattern, masked) <= asked.stored else None


def _itemsize(dtype: str) -> int:
    import torch

    return getattr(torch, dtype).itemsize


def _attention(site: Attention, ledger: Ledger, error: float | None) -> SiteReport:
    """A row for an attention. sparsity: the share of blocks left out."""
    from sparsecc.attention.orders import head_rows  # which imports torch

    reason, done = ledger.reason(site.name), ledger.last(site.name)
    row = SiteReport(
        name=site.name,
        kind=site.kind,
        shape=tuple(size for size in (site.heads, site.tokens, site.head_dim) if size is not None),
        output_error=error,
        decision="skipped" if reason else "dense",
        reason=reason,
        refused=ledger.refusals(site.name),
    )
    if site.block_map is None:
        return replace(row, decision="structured", reason=done) if done else row
    block_map = site.block_map
    static = isinstance(block_map, BlockMap)
    rows, kept = (head_rows(block_map), f"density {block_map.density:.2f}") if static else ([], str(block_map))
    return replace(
        row,
        shape=(site.heads, block_map.grid.tokens, site.head_dim),
        pattern=f"{block_map.block}x{block_map.block}",
        sparsity=1 - block_map.density,
        dtype=site.precision,
        format="block_map" if site.precision == "float32" else f"{site.precision}/block_map",
        decision="sparse",
        reason=done or f"block-sparse as the model came, {kept}",
        heads=ledger.heads(site.name) or tuple(HeadReport(**head._asdict()) for head in rows),
    )


def chosen(report: Report, choices: Sequence[Choice], graph: Graph) -> Report:
    """The report with the kernels that codegen picked for packed sites of the graph, and why."""
    by_site = {choice.site: choice for choice in choices}
    rows = (_with_choice(row, by_site[row.name]) if row.name in by_site else row for row in report.sites)
    stored = {site.name: site.quantized for site in graph.sites(WeightSite)}
    sites = tuple(_as_multiplied(row, stored.get(row.name)) for row in rows)
    return replace(report, sites=sites, totals=totals(sites))


def _with_choice(row: SiteReport, choice: Choice) -> SiteReport:
    times = {name: getattr(choice, name) for name in ("predicted_us", "measured_us", "dense_us", "bound_us")}
    row = replace(row, kernel=choice.kernel, **times)
    if row.format is None:
        return row
    reason = f"{row.reason}; {choice.reason}" if row.kind == "Attention" else choice.reason or row.reason
    return replace(row, decision=choice.decision, reason=reason)


def _as_multiplied(row: SiteReport, weight: Quantized | None) -> SiteReport:
    """Numbers that kernels do not know lie in a compiled model as float32."""
    if weight is None or row.dtype in SIZE:
        return row
    reason = f"{row.reason}; compiled in float32, there are no kernels for {row.dtype}"
    return replace(row, dtype="float32", bytes_packed=weight.bytes_float32, reason=reason)


def output_errors(result: Rewritten) -> dict[str, float | None]:
    """Per changed site of the same shape ‖y − y'‖ / ‖y‖ of what it gives for what enters it in the original model; None where that is not
    finite.

    Empty when nothing can be run.
    """
    if result.example is None or result.original is None:
        return {}
    return _layer_errors(result, result.original, result.example) | _attention_errors(result, result.original, result.example)


def _attention_errors(result: Rewritten, original: Graph, example: Sample) -> dict[str, float | None]:
    from sparsecc.ops.block_attention.torch import BlockAttention, relative_error
    from sparsecc.ops.dynamic_block_attention.torch import DynamicBlockAttention

    before = {site.name: site for site in original.sites(Attention)}
    errors: dict[str, float | None] = {}
    for site in result.graph.sites(Attention):
        came = before.get(site.name)
        if site.block_map is None or came is None or came.has_mask:  # a mask is not among what is tapped
            continue
        if came.block_map is None and came.heads == site.heads:
            q, k, v = original.run(example, [site.name]).taps[site.name]
            found, scale = site.block_map, site.scale
            static = isinstance(found, BlockMap)
            operator = BlockAttention(found, scale, precision=site.precision) if static else DynamicBlockAttention(found, scale)
            errors[site.name] = relative_error(q, k, v, operator.reference(q, k, v), scale, found.causal)
    return errors


def _layer_errors(result: Rewritten, original: Graph, example: Sample) -> dict[str, float | None]:
    changed = {site.name: site for site in result.masked.sites(WeightSite)}
    pairs = [(site, changed[site.name]) for site in original.sites(WeightSite) if site.name in changed]
    pairs = [(before, after) for before, after in pairs if before.shape == after.shape and not _same_weight(before, after)]
    errors: dict[str, float | None] = {}
    for start in range(0, len(pairs), SITES_PER_RUN):
        group = pairs[start : start + SITES_PER_RUN]
        taps = original.run(example, [before.name for before, _ in group]).taps
        errors |= {before.name: _relative_error(before, after, taps[before.name][0]) for before, after in group}
    return errors


def _same_weight(before: WeightSite, after: WeightSite) -> bool:
    if before.form is None and after.form is None:
        return before.weight.data_ptr() == after.weight.data_ptr() or bool(before.weight.equal(after.weight))
    if before.form is None or after.form is None or before.form.key != after.form.key:
        return False
    return all(tensor.equal(after.form.tensors[name]) for name, tensor in before.form.tensors.items())


def _relative_error(before: WeightSite, after: WeightSite, x: Tensor) -> float | None:
    y = _apply(before, before.weight, x)
    whole = y.norm()
    if after.form is not None and after.form.nonzeros is None and not isinstance(after, Conv2d):
        lost = y - after.form.multiply(x.to(y.dtype))  # whose product nobody makes
    else:
        lost = _apply(before, before.weight - after.weight, x)
    error = float(lost.norm() / whole) if whole else 0.0
    return error if math.isfinite(error) else None


def _apply(site: WeightSite, weight: Tensor, x: Tensor) -> Tensor:
    from torch.nn import functional

    if not isinstance(site, Conv2d):
        return functional.linear(x, weight.to(x.dtype))
    top, left, bottom, right = site.padding
    padded = functional.pad(site.images(x), (left, right, top, bottom))
    kernel = weight.to(x.dtype).reshape(*weight.shape[:2], *site.kernel)
    return functional.conv2d(padded, kernel, None, site.stride, 0, site.dilation, site.groups)
