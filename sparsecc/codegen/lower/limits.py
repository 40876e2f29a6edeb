"""What a model's inputs may hold when they index tables: generated code reads unchecked."""

from __future__ import annotations

from sparsecc.codegen.lower.program import Expr, Program, Var, shape

_KEEP_VALUES = {"astype", "reshape", "expand_dims", "squeeze", "alias", "permute_dims", "broadcast_to"}


def limits_of(program: Program) -> list[int | None]:
    """Per input of the program the size of the smallest table axis that it indexes, None where it indexes none."""
    found: dict[Var, int] = {}
    for node in program.nodes:
        if node.op == "take" and node.attrs.axis is not None:
            source = _source(program, node.args[1])
            size = shape(node.args[0])[int(node.attrs.axis)]
            found[source] = min(size, found.get(source, size))
    return [found.get(param) for param in program.params]


def _source(program: Program, expr: Expr) -> Expr:
    """Where an index comes from: through reshapes and casts, and through where(x < 0, x + size, x) to x."""
    node = program.node(expr)
    if node is not None and node.op in _KEEP_VALUES:
        return _source(program, node.args[0])
    if node is not None and node.op == "where":
        return _source(program, node.args[2])
    return expr
