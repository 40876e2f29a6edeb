"""A graph as text: one line for each site, for people and for diffs between two passes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sparsecc.errors import UserError
from sparsecc.graph.sites import Attention, Mlp, Site, WeightSite

if TYPE_CHECKING:
    from sparsecc.graph.base import Graph, TensorSpec

_INPUTS = "inputs"
_GAPS = re.compile(r" {2,}")


def text(graph: Graph) -> str:
    """The inputs and outputs, then for each site in execution order: name, kind, shape, stored form, zeros, and the sites it reads."""
    try:
        reads = graph.site_graph()
    except UserError:  # of a module that was not traced
        rows = [(*_row(site, ())[:-1], "") for site in graph.sites()]
    else:
        rows = [_row(site, list(reads.predecessors(site.name)) if site.name in reads else []) for site in graph.sites()]
    return "\n".join([_signature(graph), *_aligned(rows)]) + "\n"


def changes(before: str, after: str, name: str) -> str:
    """What a pass called `name` changed in the text of a graph, as a unified diff without context; "" for nothing.

    Columns are not aligned in it: a longer cell in one line would change all of them.
    """
    old, new = ([_GAPS.sub("  ", line) for line in text.splitlines()] for text in (before, after))
    return "".join(f"{line}\n" for line in difflib.unified_diff(old, new, f"before {name}", f"after {name}", n=0, lineterm=""))


def _signature(graph: Graph) -> str:
    return f"{graph.host}: {', '.join(map(_spec, graph.inputs))} -> {', '.join(map(_spec, graph.outputs))}"


def _spec(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype}[{', '.join(map(str, spec.shape))}]"


def _row(site: Site, reads: Sequence[str]) -> tuple[str, ...]:
    if isinstance(site, WeightSite):
        return (site.name, site.kind, _by(site.shape), _stored(site), _zeros(site), f"<- {', '.join(reads) or _INPUTS}")
    if isinstance(site, Attention):
        sizes = [size for size in (site.heads, site.tokens, site.head_dim) if size is not None]
        return (site.name, site.kind, _by(sizes), *_map(site), f"<- {', '.join(reads) or _INPUTS}")
    if isinstance(site, Mlp):
        first, second = site.first, site.second
        return (site.name, site.kind, _by((first.cols, first.rows, second.rows)), site.activation, "", f"= {first.name}, {second.name}")
    return (site.name, site.kind, "", "", "", "")


def _stored(site: WeightSite) -> str:
    marks = [mark for mark, holds in (("shared", site.shared), ("constant", site.constant)) if holds]
    return " ".join([site.form.key if site.form is not None else site.dtype, *marks])


def _zeros(site: WeightSite) -> str:
    factored = site.form is not None and site.form.nonzeros is None
    return "" if factored else f"{site.zeros / max(1, site.rows * site.cols):.1%}"


def _map(site: Attention) -> tuple[str, str]:
    causal = ["causal"] if site.causal else []
    if site.block_map is None:
        return (" ".join(causal), "")
    narrow = [] if site.precision == "float32" else [site.precision]
    return (" ".join([f"block_map:{site.block_map.block}", *narrow, *causal]), f"{1 - site.block_map.density:.1%}")


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column), default=0) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
