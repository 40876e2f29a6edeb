"""The tensors of a model while it is emitted: each in the forms somebody asked for, and the weights beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from sparsecc.codegen.cpu.layout import TokenLayout, Value
from sparsecc.codegen.cpu.operators import group_features, group_tokens
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.library import KernelCall
from sparsecc.codegen.plain.tensors import Tensors
from sparsecc.codegen.recognize.program import Expr, Program, Var, shape
from sparsecc.codegen.tvm_api import OPAQUE, relax, s_tir


class Forms(Tensors):
    """Values by the program's variables, in tiles or as the model has them."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.values: dict[Expr, Value] = {}
        self.copies: dict[tuple[Expr, Any], Var] = {}  # of images as planes, by image and what a copy looks like
        self.calls: list[KernelCall] = []
        self._kernels: dict[Any, Any] = {}
        self._site: str | None = None
        self._made_by: dict[Var, int] = {}  # the place in `calls` of what made it

    @contextmanager
    def within(self, site: str | None) -> Iterator[None]:
        """Kernels that are called in the block compute this site's layer."""
        before, self._site = self._site, site
        try:
            yield
        finally:
            self._site = before

    def made(self, var: Var) -> Expr:
        value = self.values[var]
        if value.natural is None:
            value.natural = self.untile(value) if value.later is None else value.later()
        return value.natural

    def value(self, expr: Expr) -> Value:
        """What there is of a tensor so far; a constant comes as the model gives it."""
        if expr not in self.values:
            self.values[expr] = Value(shape(expr), natural=self.natural(expr))
        return self.values[expr]

    def tiled(self, expr: Expr, layout: TokenLayout) -> Expr:
        """`expr` [.., tokens, features] as [tiles, features, tile]."""
        value = self.value(expr)
        if value.tiled is not None and value.layout == layout and value.heads is None:
            return value.tiled
        tiled = self.tile(self.natural(expr), layout, value.shape[-1])
        if value.tiled is None:
            value.tiled, value.layout = tiled, layout
        return tiled

    def narrowed(self, expr: Expr, layout: TokenLayout, dtype: str, scale: float | None, target: Target) -> tuple[Expr, ...]:
        """`expr` as groups of narrow numbers, their scales and zero points where the format has some; made once for all layers that read
        it so.

        scale: of all tokens, where calibration has found one."""
        value = self.value(expr)
        spec = group_tokens.GroupSpec(layout.tiles, value.shape[-1], layout.tile, dtype, scale is not None)
        if (spec, scale) not in value.narrow:
            grouping = group_features if layout.as_they_are else group_tokens
            kernel = self.kernel(spec, lambda: grouping.build(spec, target))
            given = relax.const(np.array([scale or 1.0], np.float32))
            value.narrow[spec, scale] = tuple(self.call_for_several(kernel, [self.tiled(expr, layout), given], spec.outputs))
        return self.read(value.narrow[spec, scale])

    def read(self, made: Sequence[Var]) -> tuple[Var, ...]:
        """What a kernel has made of an input, perhaps for another site before, for the site that is being emitted."""
        call = self.calls[place := self._made_by[made[0]]]
        readers = call.readers if self._site in (None, *call.readers) else (*call.readers, self._site)
        self.calls[place] = replace(call, site=None, readers=readers)
        return tuple(made)

    def heads_tiled(self, expr: Var, layout: TokenLayout, order: str) -> Expr:
        """[batch, heads, tokens, dim] ("bhsd") or [batch, heads, dim, tokens] ("bhds") as [tiles, heads·dim, tile]."""
        value = self.value(expr)
        if value.heads == order and value.layout == layout and value.tiled is not None:
            return value.tiled
        x = self.op(relax.op.permute_dims(self.natural(expr), [0, 2, 1, 3] if order == "bhsd" else [0, 3, 1, 2]))
        batch, tokens, heads, dim = shape(x)
        return self.tile(self.op(relax.op.reshape(x, [batch, tokens, heads * dim])), layout, heads * dim)

    def tile(self, x: Expr, layout: TokenLayout, features: int) -> Expr:
        op = relax.op
        if layout.as_they_are:
            return self.op(op.reshape(x, list(layout.shape(features))))
        x = self.op(op.reshape(x, [layout.sequences, layout.tokens, features]))
        if layout.padded != layout.tokens:
            x = self.op(op.nn.pad(x, [0, 0, 0, layout.padded - layout.tokens, 0, 0]))
        x = self.op(op.reshape(x, [layout.tiles, layout.tile, features]))
        return self.op(op.permute_dims(x, [0, 2, 1]))

    def untile(self, value: Value) -> Expr:
        assert value.tiled is not None and value.layout is not None, "a value has neither form"
        op, layout = relax.op, value.layout
        features = shape(value.tiled)[1]
        x = value.tiled if layout.as_they_are else self.op(op.permute_dims(value.tiled, [0, 2, 1]))
        x = self.op(op.reshape(x, [layout.sequences, layout.padded, features]))
        if layout.padded != layout.tokens:
            x = self.op(op.strided_slice(x, [1], [0], [layout.tokens]))
        if value.heads is None:
            return self.op(op.reshape(x, list(value.shape)))
        axes = {"bshd": (0, 1, 2, 3), "bhsd": (0, 2, 1, 3), "bhds": (0, 2, 3, 1)}[value.heads]  # value axis i is axis axes[i] of bshd
        bshd = [value.shape[axes.index(i)] for i in range(4)]
        x = self.op(op.reshape(x, bshd))
        return x if value.heads == "bshd" else self.op(op.permute_dims(x, list(axes)))

    def kernel(self, key: Any, build: Callable[[], Any]) -> Any:
        """The GlobalVar of a generated kernel, built once for equal keys."""
        if key not in self._kernels:
            func = _in_block(build())
            name = f"{func.attrs['global_symbol']}_{len(self._kernels)}"
            func = func.with_attr({"global_symbol": name, "tirx.is_scheduled": 1, "op_pattern": OPAQUE})
            self._kernels[key] = self.builder.add_func(func, name)
        return self._kernels[key]

    def call_for_several(self, kernel: Any, args: list[Expr], outs: list[tuple[tuple[int, ...], str]]) -> list[Var]:
        """A kernel with a list of outputs.  outs: their shapes and dtypes."""
        types = [relax.TensorType(list(shape), dtype) for shape, dtype in outs]
        if len(types) == 1:
            made = [self.op(relax.call_tir(kernel, args, types[0]))]
        else:
            result = self.op(relax.call_tir(kernel, args, types))
            made = [self.op(relax.TupleGetItem(result, index)) for index in range(len(outs))]
        self._made_by |= dict.fromkeys(made, len(self.calls))
        self.calls.append(KernelCall(kernel.name_hint, self._site))
        return made

    def call(self, kernel: Any, args: list[Expr], out: tuple[int, ...], dtype: str = "float32") -> Var:
        return self.call_for_several(kernel, args, [(out, dtype)])[0]


def _in_block(func: Any) -> Any:
    """A kernel with a block around its body: TVM 0.27 looks for a reshape in whatever reads a single tensor, and expects one there."""
    return func.with_body(s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", func.body)))
