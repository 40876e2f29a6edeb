"""A report as a table of text, the same on a terminal and in a file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from sparsecc.report.base import Check, Measured, Report, SiteReport


WIDTH = 140
_NAMED = 3  # sites per reason
_COLUMNS = ("site", "shape", "pattern", "zeros", "format", "bytes", "error", "dense µs", "sparse µs", "of bound", "gain", "decision")
_TEXT_COLUMNS = ("site", "shape", "pattern", "format", "decision")


def text(report: Report, width: int = WIDTH) -> str:
    """Rows that say the same, but for their sizes and times, stay apart: nothing is summed up or left out."""
    table = Table(title=f"{report.model} on {report.target}", title_justify="left", box=None, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in _TEXT_COLUMNS else "right", overflow="fold", no_wrap=column != "site")
    for site in report.sites:
        table.add_row(*cells(site))
    written = io.StringIO()
    console = Console(file=written, width=width, color_system=None, highlight=False, markup=False, emoji=False)
    console.print(table)
    after = (*_left_alone(report), *_refusals(report), *_kernels(report), *summary(report))
    return "\n".join(line.rstrip() for line in [*written.getvalue().splitlines(), *after])


def reasons(report: Report) -> str:
    """Per site: what it is, what was done, and why not more."""
    return "\n".join([*(_reasons_at(site) for site in report.sites), *_notes(report)])


def _reasons_at(site: SiteReport) -> str:
    refused = [f"    {said}" for said in _unsaid(site)]
    size_of = f" {size(site.bytes_dense)}" if site.bytes_dense is not None else ""
    head = f"{printable(site.name)}  {site.kind} {shape(site)}{size_of}"
    return "\n".join((head, f"    {site.decision}: {site.reason or 'no reason recorded'}", *refused, *_heads(site)))


def _heads(site: SiteReport) -> list[str]:
    """A line for each head of a block-sparse attention, under one that says what is in it; none where all are alike."""
    if len(set(site.heads)) < 2:
        return []
    lines = [f"    {'head':>4}  {'order':<7}  {'density':>7}  {'lost mass':>9}  {'error':>7}"]
    for number, head in enumerate(site.heads):
        lines.append(f"    {number:>4}  {head.order:<7}  {head.density:>7.3f}  {cost(head.lost):>9}  {cost(head.error):>7}".rstrip())
    return lines


def cost(share: float | None) -> str:
    """Of a head; "" where nothing was measured."""
    return "" if share is None else f"{share:.2g}"


def _unsaid(site: SiteReport) -> list[str]:
    """Refusals that the reason does not have yet."""
    return [f"refused by {said}" for said in site.refused if said.partition(": ")[2] not in site.reason]


def _notes(report: Report) -> list[str]:
    return [f"note: {printable(note)}" for note in report.notes]


def cells(site: SiteReport) -> tuple[str, ...]:
    """One row, in the order of the columns."""
    return (
        printable(site.name),
        shape(site),
        site.pattern or "",
        f"{site.sparsity:.0%}",
        site.format or "",
        "" if site.bytes_packed is None else _ratio(site.bytes_kept, site.bytes_dense),
        "" if site.output_error is None else f"{site.output_error:.2g}",
        _number(site.dense_us),
        _number(site.measured_us),
        f"{site.bound_us / site.measured_us:.0%}" if site.bound_us and site.measured_us else "",
        _gain(site.dense_us, site.measured_us),
        site.decision,
    )


def summary(report: Report) -> list[str]:
    """The closing lines: totals and the check."""
    totals = report.totals
    lines: list[str] = []
    if totals:
        decisions = ", ".join(f"{totals[name]} {name}" for name in ("sparse", "structured", "dense", "skipped") if totals.get(name))
        lines.append(
            f"{totals['sites']} sites: {decisions or 'none'}; weights {size(totals['bytes_dense'])} -> {size(totals['bytes_kept'])}"
        )
    if totals.get("dense_us"):
        gain = _gain(totals["dense_us"], totals["chosen_us"])
        lines.append(f"measured sites: dense {totals['dense_us']:.0f} µs -> chosen {totals['chosen_us']:.0f} µs ({gain})")
    if report.check:
        lines.append(_check(report.check))
    if report.measured:
        lines.append(_measured(report.measured))
    return [*lines, *_notes(report)]


def _check(check: Check) -> str:
    numbers = f"max abs {check.max_abs:.2g}, max rel {check.max_rel:.2g}, cosine {check.cosine:.6f}"
    reason = f"; unlike the {check.against}'s: {printable(check.reason)}" if check.reason else ""
    return f"check against the masked dense model: {numbers}{reason}"


def _measured(measured: Measured) -> str:
    sets = ", ".join(f"{count} {source}" for source, count in measured.samples.items())
    shapes = ", ".join(f"{printable(name)} {'×'.join(map(str, shape)) or 'scalar'}" for name, shape in measured.shapes.items())
    machine = f"; {measured.threads} threads of {measured.cpu}" if measured.cpu else ""
    return f"inputs of errors and check: {sets} ({shapes}){machine}"


def _left_alone(report: Report) -> list[str]:
    """A line for each reason. Where both kernels were timed, the times in the row are the reason."""
    names: dict[str, list[str]] = {}
    for site in report.sites:
        if site.decision == "skipped" or (site.decision == "dense" and site.measured_us is None):
            names.setdefault(f"{site.decision}: {site.reason or 'no reason recorded'}", []).append(printable(site.name))
    return [f"{reason} ({_listed(sites)})" for reason, sites in names.items()]


def _kernels(report: Report) -> list[str]:
    """What was timed on a GPU: a line for each shape and number of tokens, candidates from the fastest on."""
    return [
        f"{kernel.form} {'×'.join(map(str, kernel.shape))}, {kernel.tokens} tokens: "
        + ", ".join(f"{name} {us:.1f} µs" for name, us in sorted(kernel.us.items(), key=lambda pair: pair[1]))
        for kernel in report.kernels
    ]


def _refusals(report: Report) -> list[str]:
    """A line for each refusal by one pass of layers that another one changed."""
    names: dict[str, list[str]] = {}
    for site in report.sites:
        for said in _unsaid(site):
            names.setdefault(said, []).append(printable(site.name))
    return [f"{said} ({_listed(sites)})" for said, sites in names.items()]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def printable(name: str) -> str:
    """A name as it is, unless it would break a line or steer the terminal: names come from the model's file."""
    return name if name.isprintable() else repr(name)


def shape(site: SiteReport) -> str:
    return "×".join(map(str, site.shape))


def size(nbytes: float) -> str:
    """1234567 -> '1.2 MB'."""
    return f"{nbytes / 1e6:.1f} MB" if nbytes >= 1e5 else f"{nbytes / 1e3:.1f} kB"


def columns() -> Sequence[str]:
    return _COLUMNS


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _ratio(part: int, whole: int | None) -> str:
    return f"{part / whole:.0%}" if whole else ""


def _gain(dense: float | None, chosen: float | None) -> str:
    return f"{dense / chosen:.2f}x" if dense and chosen else ""
