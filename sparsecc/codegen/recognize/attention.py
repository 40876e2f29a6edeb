"""Attention, as one call of the importer or spelled out: matmul(softmax(scale · matmul(q, kᵀ) + mask), v)."""

from __future__ import annotations

from sparsecc.attention.dynamic import DynamicMap
from sparsecc.codegen.recognize.program import AttentionCall, BlockAttentionCall, Expr, Node, Program, shape


def attention_call(program: Program, node: Node) -> None:
    found = program.placeholders.get(node.op)
    if found is not None and found.kind == "attention":
        q, k, v, *mask = node.args
        node.what = AttentionCall(q, k, v, found.attributes["scale"], found.attributes["causal"], mask[0] if mask else None)
        node.op = "attention"


def block_attention_call(program: Program, node: Node) -> None:
    found = program.placeholders.get(node.op)
    if found is not None and found.kind == "block_attention":
        q, k, v, *rest = node.args
        scale, block_map, precision = (found.attributes[name] for name in ("scale", "map", "precision"))
        listed = isinstance(block_map, DynamicMap) and block_map.counts is not None
        last = {"lists" if listed else "mask": rest[0]} if rest else {}
        node.what = BlockAttentionCall(q, k, v, scale, block_map, found.name, precision, **last)
        node.op = "block_attention"


def softmax_attention(program: Program, node: Node) -> None:
    """matmul(softmax(scale · matmul(q, kᵀ) + mask), v), 4-D, scaling before or after the product."""
    if node.op != "matmul" or len(shape(node.var)) != 4:
        return
    softmax = _softmax(program, node)
    if softmax is None:
        return
    scale, mask, at = 1.0, None, program.node(softmax.args[0])
    while at is not None and at.op in ("add", "multiply", "divide") and len(program.users[at.var]) == 1:
        number, inner = _scaled(program, at)
        if number is not None:  # before the mask; one behind it would scale the mask, too, and ends the search there
            scale *= number
        elif at.op == "add" and mask is None and scale == 1.0:
            inner, mask = _score_and_mask(program, at)
        else:
            return
        at = program.node(inner)
    if at is None or at.op != "matmul" or any(program.constant(arg) is not None for arg in at.args):
        return
    q, k = at.args
    q, before = _unscaled(program, q)
    k, after = _unscaled(program, k)
    v = node.args[1]
    if any(len(shape(x)) != 4 for x in (q, k, v)) or shape(q)[:2] != shape(k)[:2] or shape(k)[:2] != shape(v)[:2]:
        return
    k, transposed = _keys(program, k)
    k, inside = _unscaled(program, k)
    node.what = AttentionCall(q, k, v, scale * before * after * inside, mask=mask, keys_transposed=transposed)
    node.op = "attention"


def _softmax(program: Program, product: Node) -> Node | None:
    """The softmax over the last axis whose result `product` alone reads, perhaps with NaN (a row without any key) put to zero."""
    node = program.node(product.args[0])
    if node is not None and node.op == "where" and program.only_user(node.var) is product:
        test = program.node(node.args[0])
        if test is None or test.op != "isnan" or program.scalar(node.args[1]) != 0.0 or test.args[0] != node.args[2]:
            return None
        readers = {reader.var for reader in program.users[node.args[2]]}
        node = program.node(node.args[2]) if readers == {test.var, node.var} else None
    elif node is not None and program.only_user(node.var) is not product:
        return None
    return node if node is not None and node.op == "nn.softmax" and int(node.attrs.axis) in (-1, 3) else None


def _keys(program: Program, kt: Expr) -> tuple[Expr, bool]:
    """(k, False) where kᵀ is k with its last two axes turned, perhaps with batch and heads joined meanwhile; else (kᵀ, True)."""
    turn = program.node(kt)
    if turn is not None and turn.op == "permute_dims" and _axes(turn) == (0, 1, 3, 2):
        return turn.args[0], False
    inner = program.node(turn.args[0]) if turn is not None and turn.op == "reshape" else None
    joined = program.node(inner.args[0]) if inner is not None and inner.op == "permute_dims" and _axes(inner) == (0, 2, 1) else None
    if joined is not None and joined.op == "reshape":
        k = joined.args[0]
        batch, heads, dim, keys = shape(kt)
        if shape(k) == (batch, heads, keys, dim) and shape(joined.var) == (batch * heads, keys, dim):
            return k, False
    return kt, True


def _axes(node: Node) -> tuple[int, ...] | None:
    return None if node.attrs.axes is None else tuple(int(a) for a in node.attrs.axes)


def _scaled(program: Program, node: Node) -> tuple[float | None, Expr]:
    """(c, x) of x·c or x/c."""
    if node.op == "divide" and (c := program.scalar(node.args[1])) is not None:
        return 1 / c, node.args[0]
    if node.op == "multiply":
        for x, c in (node.args, node.args[::-1]):
            if (number := program.scalar(c)) is not None:
                return number, x
    return None, node.args[0]


def _unscaled(program: Program, expr: Expr) -> tuple[Expr, float]:
    node = program.node(expr)
    if node is None or node.op not in ("multiply", "divide"):
        return expr, 1.0
    number, inner = _scaled(program, node)
    return (inner, number) if number is not None else (expr, 1.0)


def _score_and_mask(program: Program, add: Node) -> tuple[Expr, Expr]:
    """The operand that leads to q kᵀ, and the other one."""

    def leads(expr: Expr) -> bool:
        node = program.node(expr)
        return node is not None and node.op in ("matmul", "multiply", "divide") and shape(expr) == shape(add.var)

    a, b = add.args
    return (a, b) if leads(a) else (b, a)
