"""Operators that read or write a table by index, and what that asks of a model's inputs: what TVM makes of them checks nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from sparsecc.codegen.recognize.program import Expr, Node, Program, Var, dtype, shape

Range = tuple[int, int]  # (least, end): a value i needs least ≤ i < end

_KEEP_VALUES = {"reshape", "expand_dims", "squeeze", "alias", "permute_dims", "broadcast_to"}
_ALONG_AXIS = {"take", "gather_elements", "scatter_elements"}
REGIONS = {"vision.roi_align", "vision.roi_pool"}
_DIVIDES = {"divide", "floor_divide", "mod", "floor_mod"}
_COUNT_FROM_END = {"index_put", "scatter_elements"}  # by themselves: importers put a where before the others


def limits_of(program: Program) -> list[Range | None]:
    """Per input of the program what all the tables that it indexes take, None where it indexes none.

    Only inputs that are indices as they come, or after from the end was counted from the start, are found. Where the last axis of an
    index holds one coordinate for each of several axes, its limit is that of the longest.
    """
    found: dict[Var, Range] = {}
    for node in program.nodes:
        for index, sizes in _indices(program, node):
            source, least = _source(program, index, sizes)
            least = -max(sizes) if node.op in _COUNT_FROM_END else least
            before = found.get(source, (least, max(sizes)))
            found[source] = max(least, before[0]), min(max(sizes), before[1])
    return [found.get(param) for param in program.params]


def divisors_of(program: Program) -> list[bool]:
    """Per input of the program whether it divides integers, as it comes."""
    found = {_source(program, node.args[1], ())[0] for node in program.nodes if divides_integers(node)}
    return [param in found for param in program.params]


def regions_of(program: Program) -> list[int | None]:
    """Per input of the program how many images the regions in it, as they come, may be of; None where it has none."""
    found = {_source(program, node.args[1], ())[0]: shape(node.args[0])[0] for node in program.nodes if node.op in REGIONS}
    return [found.get(param) for param in program.params]


def divides_integers(node: Node) -> bool:
    return node.what is None and node.op in _DIVIDES and "int" in dtype(node.var)


def _indices(program: Program, node: Node) -> Iterator[tuple[Expr, tuple[int, ...]]]:
    yield from ((node.args[place], sizes) for place, sizes in tables(node).items())
    regions = program.node(node.args[1]) if node.op in REGIONS else None
    if regions is not None and regions.op == "concat" and shape(regions.args[0])[-1] == 1:
        yield _as_integers(program, regions.args[0]), shape(node.args[0])[:1]


def _as_integers(program: Program, expr: Expr) -> Expr:
    """What was cast to floats, to stand beside coordinates."""
    node = program.node(expr)
    if node is not None and (node.op in _KEEP_VALUES or node.op == "astype") and "float" in dtype(expr):
        return _as_integers(program, node.args[0])
    return expr


def tables(node: Node) -> dict[int, tuple[int, ...]]:
    """By place among the node's args, its indices: the size of the axis that they index, or the sizes for each coordinate in their last."""
    if node.what is not None or not node.args or node.op not in _ALONG_AXIS | {"gather_nd", "scatter_nd", "index_tensor", "index_put"}:
        return {}
    sizes = shape(node.args[0])
    if node.op in _ALONG_AXIS:
        return {} if node.attrs.axis is None else {1: (sizes[int(node.attrs.axis)],)}
    if node.op in ("gather_nd", "scatter_nd"):
        first = int(node.attrs.batch_dims) if node.op == "gather_nd" else 0
        return {1: sizes[first : first + shape(node.args[1])[-1]]}
    indices = node.args[1:] if node.op == "index_tensor" else node.args[1:-1]
    return {1 + axis: (sizes[axis],) for axis, index in enumerate(indices) if "int" in dtype(index)}


def _source(program: Program, expr: Expr, sizes: Sequence[int]) -> tuple[Expr, int]:
    """Where an index comes from, through reshapes and casts, and the least that it may hold: -size before where(x < 0, x + size, x)."""
    node = program.node(expr)
    if node is None:
        return expr, 0
    if node.op in _KEEP_VALUES or (node.op == "astype" and dtype(expr) in ("int32", "int64")):
        return _source(program, node.args[0], sizes)
    counted = _counted_from_end(program, node, sizes)
    return (expr, 0) if counted is None else (_source(program, counted, sizes)[0], -max(sizes))


def _counted_from_end(program: Program, node: Node, sizes: Sequence[int]) -> Expr | None:
    """x of where(x < 0, x + size, x)."""
    if node.op != "where":
        return None
    condition, moved, x = program.node(node.args[0]), program.node(node.args[1]), node.args[2]
    if condition is None or moved is None or (condition.op, moved.op) != ("less", "add"):
        return None
    zero, size = program.constant(condition.args[1]), program.constant(moved.args[1])
    if zero is None or size is None or condition.args[0] != x or moved.args[0] != x:
        return None
    return x if not np.any(zero) and size.ravel().tolist() == list(sizes) else None
