"""A recognized program as operators of Relax."""

from __future__ import annotations

from typing import Any

from sparsecc.codegen.backend import Emitted, UnnamedError
from sparsecc.codegen.plain.operators import ACTIVATIONS, as_it_was, spelled_out
from sparsecc.codegen.plain.tensors import Tensors
from sparsecc.codegen.recognize.program import AttentionCall, BlockAttentionCall, Expr, Layer, Node, Program, Subsampled, Var, dtype, shape
from sparsecc.codegen.reference.attention import attention, block_attention
from sparsecc.codegen.reference.layers import layer
from sparsecc.codegen.tvm_api import relax


class Made(Tensors):
    """values: by the program's variables."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.values: dict[Expr, Expr] = {}

    def made(self, var: Var) -> Expr:
        return self.values[var]


def emit(program: Program) -> Emitted:
    made = Made(program)
    inputs = [relax.Var(p.name, p.ty) for p in program.params]
    made.values.update(zip(program.params, inputs, strict=True))
    functions: dict[Any, Any] = {}
    with made.builder.function("main"):
        with made.builder.dataflow():
            for node in program.nodes:
                made.values[node.var] = _node(made, node, functions)
            result = made.builder.emit_output(relax.Tuple([made.natural(out) for out in program.outputs]))
        made.builder.emit_func_output(result, params=[*inputs, *made.weight_vars])
    return Emitted(made.builder.get(), made.weights)


def _node(made: Made, node: Node, functions: dict[Any, Any]) -> Expr:
    if isinstance(node.var.ty, relax.TensorType) and 0 in shape(node.var):  # a batch, or a past, of nothing
        return made.op(relax.op.zeros(shape(node.var), dtype(node.var)))
    if isinstance(node.what, Layer):
        return layer(made, node.what)
    if isinstance(node.what, AttentionCall):
        return attention(made, node.what)
    if isinstance(node.what, BlockAttentionCall):
        return block_attention(made, node.what)
    if isinstance(node.what, Subsampled):
        return _every_pixel(made, node.what)
    if node.op in made.program.placeholders:
        raise UnnamedError(f"the reference backend knows no {made.program.placeholders[node.op].kind}")
    spelled = spelled_out(made, node)
    if spelled is not None:
        return spelled
    activation = ACTIVATIONS.get(node.op)
    return activation(made, made.natural(node.args[0])) if activation else as_it_was(made, node, functions)


def _every_pixel(made: Made, what: Subsampled) -> Expr:
    x = made.natural(what.x)
    axes = list(range(2, len(shape(x))))
    strides = list(what.stride[-len(axes) :])
    return made.op(relax.op.strided_slice(x, axes, [0] * len(axes), list(shape(x)[2:]), strides))
