"""The account of what was done: from graphs, pass results and codegen's choices to a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sparsecc
from sparsecc.errors import Refused
from sparsecc.graph.sites import Attention, Conv2d, Unseen, WeightSite
from sparsecc.passes.base import registered_name
from sparsecc.report.base import Report, SiteReport, totals

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.api.rewriting import Rewritten
    from sparsecc.codegen.choose import Choice
    from sparsecc.forms import Form
    from sparsecc.graph.base import Graph

SITES_PER_RUN = 16  # how many layers' inputs are held at once


def report(result: Rewritten, target: str) -> Report:
    """What the passes did. Output errors are measured when there are inputs to run; `chosen` adds what codegen decided."""
    reasons, deeds, patterns = _reasons(result), _deeds(result), _patterns(result)
    errors = output_errors(result)
    dense = {site.name: site for site in result.masked.sites(WeightSite)}
    came = {site.name: site for site in (result.original or result.masked).sites(WeightSite)}
    looked_at, refusals = _looked_at(result), _refusals(result)
    rows = tuple(
        _attention(site, looked_at.get(site.name, ""), reasons.get(site.name, ""), errors.get(site.name))
        if isinstance(site, Attention)
        else _site(
            site,
            dense.get(site.name, site),
            came.get(site.name, site),
            reasons.get(site.name, ""),
            deeds.get(site.name, ""),
            patterns.get(site.name),
            errors.get(site.name),
        )
        for site in result.graph.sites()
        if isinstance(site, WeightSite) or (isinstance(site, Attention) and (site.name in looked_at or site.block_map is not None))
    )
    sites = (*(replace(row, refused=tuple(refusals.get(row.name, ()))) for row in rows), *map(_unseen, result.graph.unseen()))
    notes = (*result.graph.notes, *result.notes)
    return Report(sparsecc=sparsecc.__version__, model=result.name, target=target, sites=sites, totals=totals(sites), notes=notes)


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


def _site(
    site: WeightSite, dense: WeightSite, came: WeightSite, reason: str, deeds: str, pattern: str | None, error: float | None
) -> SiteReport:
    """A row for a layer. came: as in the original model.  reason: why a pass refused it.  deeds: what others did.  pattern: to which one
    pruned it."""
    weight = dense.weight  # of the masked model: not packed, unless it came so
    nbytes = weight.numel() * weight.element_size()
    row = SiteReport(
        name=site.name,
        kind=site.kind,
        shape=tuple(weight.shape),
        sparsity=1 - int(weight.count_nonzero()) / max(1, weight.numel()),
        dtype=str(weight.dtype).removeprefix("torch."),
        bytes_dense=math.prod(came.shape) * weight.element_size(),
        output_error=error,
        pattern=pattern,
        decision="skipped" if reason and not deeds else "dense",
        reason="; refused: ".join(filter(None, (deeds, reason))) or "no pass changed it",
    )
    if dense.shape != came.shape:
        row = replace(row, bytes_packed=nbytes, decision="structured")
    return row if site.form is None else _with_form(row, site.form, deeds)


def _with_form(row: SiteReport, form: Form, deeds: str) -> SiteReport:
    """The row of a layer whose weight is not dense."""
    size = f"{form.deed} {form.nbytes / max(1, row.bytes_dense or 1):.2f} of the dense bytes"
    reason = size if form.word == "packed" else deeds or size
    decision = "sparse" if form.sparse_format is not None else "structured" if form.nonzeros is None else "dense"
    pattern = form.pattern or row.pattern
    return replace(
        row, pattern=pattern, format=form.key, dtype=form.stored_dtype, bytes_packed=form.nbytes, decision=decision, reason=reason
    )


def _attention(site: Attention, done: str, reason: str, error: float | None) -> SiteReport:
    """A row for an attention. done: what the last pass says it did, "" where the model came so.  sparsity: the share of blocks left out."""
    row = SiteReport(
        name=site.name,
        kind=site.kind,
        shape=tuple(size for size in (site.heads, site.tokens, site.head_dim) if size is not None),
        output_error=error,
        decision="skipped" if reason else "dense",
        reason=reason,
    )
    if site.block_map is None:
        return replace(row, decision="structured", reason=done) if done else row
    block_map = site.block_map
    return replace(
        row,
        shape=(site.heads, block_map.grid.tokens, site.head_dim),
        pattern=f"{block_map.block}x{block_map.block}",
        sparsity=1 - block_map.density,
        format="block_map",
        decision="sparse",
        reason=done or f"block-sparse as the model came, density {block_map.density:.2f}",
    )


def chosen(report: Report, choices: Sequence[Choice]) -> Report:
    """The report with the kernels that codegen picked for packed sites, and why."""
    by_site = {choice.site: choice for choice in choices}
    sites = tuple(_with_choice(row, by_site[row.name]) if row.name in by_site else row for row in report.sites)
    return replace(report, sites=sites, totals=totals(sites))


def _with_choice(row: SiteReport, choice: Choice) -> SiteReport:
    times = {name: getattr(choice, name) for name in ("predicted_us", "measured_us", "dense_us", "bound_us")}
    row = replace(row, kernel=choice.kernel, **times)
    if row.format is None:
        return row
    reason = f"{row.reason}; {choice.reason}" if row.kind == "Attention" else choice.reason or row.reason
    return replace(row, decision=choice.decision, reason=reason)


def _reasons(result: Rewritten) -> dict[str, str]:
    """The first refusal at each site, unless a later pass took the site after all: what later passes miss follows from it."""
    reasons: dict[str, str] = {}
    for _, outcome in result.steps:
        for match in outcome.matches:
            for name in (match.site.name, *match.layers):
                if match.refused is not None:
                    reasons.setdefault(name, match.refused.reason)
                else:
                    reasons.pop(name, None)
    return reasons


def _refusals(result: Rewritten) -> dict[str, list[str]]:
    """What each pass that refused a site said, in the order of the recipe."""
    refusals: dict[str, list[str]] = {}
    for step, outcome in result.steps:
        for match in outcome.matches:
            if (refused := match.refused) is None:
                continue
            for name in (match.site.name, *match.layers):
                refusals.setdefault(name, []).append(f"{registered_name(step)}: {refused.reason}")
    return refusals


def _deeds(result: Rewritten) -> dict[str, str]:
    """What was done at each site, pass by pass."""
    deeds: dict[str, list[str]] = {}
    for step, outcome in result.steps:
        for match in outcome.matches:
            for name in (match.site.name, *match.layers) if match.refused is None else ():
                deeds.setdefault(name, []).append(f"{registered_name(step)}: {match.action}")
    return {name: "; ".join(words) for name, words in deeds.items()}


def _patterns(result: Rewritten) -> dict[str, str]:
    """The pattern that the last prune gave each site, where the weight still has it: filled or in another order it may have none."""
    from sparsecc.passes.prune import Prune  # here, because it imports torch, which loading an artifact does without

    patterns: dict[str, tuple[str, WeightSite]] = {}
    for step, outcome in result.steps:
        if isinstance(step, Prune):
            taken = {match.site.name for match in outcome.matches if match.refused is None}
            patterns |= {site.name: (step.pattern, site) for site in outcome.graph.sites(WeightSite) if site.name in taken}
    now = {site.name: site for site in result.masked.sites(WeightSite) if site.name in patterns}
    return {name: pattern for name, (pattern, pruned) in patterns.items() if name in now and _has_pattern(pattern, pruned, now[name])}


def _has_pattern(pattern: str, pruned: WeightSite, now: WeightSite) -> bool:
    """Whether the pattern stores no larger a share of the weight than when it was pruned to it."""
    from sparsecc import formats

    if pruned.stored is now.stored:
        return True
    covers = [formats.from_pattern(pattern).cover(site.matrix != 0) for site in (pruned, now)]
    shares = [1.0 if isinstance(cover, Refused) else float(cover.double().mean()) for cover in covers]
    return shares[1] <= shares[0]


def _looked_at(result: Rewritten) -> dict[str, str]:
    """Per attention site that a pass looked at: what the last one did there, "" where it refused."""
    matches = [match for _, outcome in result.steps for match in outcome.matches if isinstance(match.site, Attention)]
    return {match.site.name: "" for match in matches} | {match.site.name: str(match.action) for match in matches if not match.refused}


def output_errors(result: Rewritten) -> dict[str, float | None]:
    """Per changed site of the same shape ‖y − y'‖ / ‖y‖ of what it gives for what enters it in the original model; None where that is not
    finite.

    Empty when nothing can be run.
    """
    if result.example is None or result.original is None:
        return {}
    return _layer_errors(result, result.original, result.example) | _attention_errors(result, result.original, result.example)


def _attention_errors(result: Rewritten, original: Graph, example: list[Any]) -> dict[str, float | None]:
    from sparsecc.ops.block_attention import relative_error

    before = {site.name: site for site in original.sites(Attention)}
    errors: dict[str, float | None] = {}
    for site in result.graph.sites(Attention):
        came = before.get(site.name)
        if site.block_map is not None and came is not None and came.block_map is None and came.heads == site.heads:
            q, k, v = original.run(example, [site.name]).taps[site.name]
            errors[site.name] = relative_error(q, k, v, site.block_map, site.scale)
    return errors


def _layer_errors(result: Rewritten, original: Graph, example: list[Any]) -> dict[str, float | None]:
    changed = {site.name: site for site in result.masked.sites(WeightSite)}
    pairs = [(site, changed[site.name]) for site in original.sites(WeightSite) if site.name in changed]
    pairs = [(before, after) for before, after in pairs if before.shape == after.shape and not _same_weight(before.weight, after.weight)]
    errors: dict[str, float | None] = {}
    for start in range(0, len(pairs), SITES_PER_RUN):
        group = pairs[start : start + SITES_PER_RUN]
        taps = original.run(example, [before.name for before, _ in group]).taps
        errors |= {before.name: _relative_error(before, after, taps[before.name][0]) for before, after in group}
    return errors


def _same_weight(before: Tensor, after: Tensor) -> bool:
    return before.data_ptr() == after.data_ptr() or bool(before.equal(after))


def _relative_error(before: WeightSite, after: WeightSite, x: Tensor) -> float | None:
    whole = _apply(before, before.weight, x).norm()
    error = float(_apply(before, before.weight - after.weight, x).norm() / whole) if whole else 0.0
    return error if math.isfinite(error) else None


def _apply(site: WeightSite, weight: Tensor, x: Tensor) -> Tensor:
    from torch.nn import functional

    if not isinstance(site, Conv2d):
        return functional.linear(x, weight.to(x.dtype))
    top, left, bottom, right = site.padding
    padded = functional.pad(site.images(x), (left, right, top, bottom))
    kernel = weight.to(x.dtype).reshape(*weight.shape[:2], *site.kernel)
    return functional.conv2d(padded, kernel, None, site.stride, 0, site.dilation, site.groups)
