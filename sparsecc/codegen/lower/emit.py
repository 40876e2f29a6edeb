"""Emits a recognized program as Relax again: layers as calls of generated kernels, everything else as it was.

Layouts are decided on the way: a layer reads and writes tiles of tokens, elementwise operators keep the form of what they
read, and a value is turned only where an operator without a tiled form asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparsecc.codegen.choose import Chooser
from sparsecc.codegen.kernels import attention, layer_norm
from sparsecc.codegen.kernels.base import Epilogue, MatmulSpec
from sparsecc.codegen.lower.convolve import Plane, plane_of
from sparsecc.codegen.lower.layout import TokenLayout, Value, layout_of
from sparsecc.codegen.lower.program import AttentionCall, Expr, Layer, Node, Program, Var, shape
from sparsecc.codegen.target import Target
from sparsecc.codegen.tvm_api import BlockBuilder, GenericConst, relax, tirx

_WEIGHT_ELEMENTS = 64  # larger constants become parameters, stored once beside the code
_TILED_UNARY = {"nn.relu", "tanh", "sigmoid", "nn.silu", "nn.gelu", "nn.gelu_tanh", "exp", "sqrt", "negative", "abs", "erf"}
_TILED_BINARY = {"add", "subtract", "multiply", "divide", "maximum", "minimum"}
_CALL_TIR_OPAQUE = 8  # relax's OpPatternKind that fusion leaves alone


@dataclass(frozen=True)
class Emitted:
    """module: `main(*inputs, *weights)` returns a tuple of the outputs."""

    module: Any
    weights: dict[str, np.ndarray]


def emit(program: Program, target: Target, chooser: Chooser) -> Emitted:
    return _Emitter(program, target, chooser).run()


class _Emitter:
    def __init__(self, program: Program, target: Target, chooser: Chooser) -> None:
        self.program, self.target, self.chooser = program, target, chooser
        self.builder = BlockBuilder()
        self.values: dict[Var, Value] = {}
        self.weights: dict[str, np.ndarray] = {}
        self.weight_vars: list[Var] = []
        self._weight_of: dict[int, tuple[Var, Any]] = {}
        self._kernels: dict[Any, Any] = {}
        self._functions: dict[Any, Any] = {}

    def run(self) -> Emitted:
        inputs = [relax.Var(p.name, p.ty) for p in self.program.params]
        for old, new in zip(self.program.params, inputs, strict=True):
            self.values[old] = Value(shape(old), natural=new)
        with self.builder.function("main"):
            with self.builder.dataflow():
                for node in self.program.nodes:
                    self._node(node)
                outputs = [self.natural(out) for out in self.program.outputs]
                result = self.builder.emit_output(relax.Tuple(outputs))
            self.builder.emit_func_output(result, params=[*inputs, *self.weight_vars])
        return Emitted(self.builder.get(), self.weights)

    # what a value is, in the form that is asked for

    def natural(self, expr: Expr) -> Expr:
        if isinstance(expr, GenericConst):
            return self.constant(expr)
        if not isinstance(expr, relax.Var):
            return expr
        value = self.values[expr]
        if value.natural is None:
            value.natural = self._untile(value)
        return value.natural

    def tiled(self, expr: Var, layout: TokenLayout) -> Expr:
        """`expr` [.., tokens, features] as [tiles, features, tile]."""
        value = self.values[expr]
        if value.tiled is not None and value.layout == layout and value.heads is None:
            return value.tiled
        tiled = self._tile(self.natural(expr), layout, value.shape[-1])
        if value.tiled is None:
            value.tiled, value.layout = tiled, layout
        return tiled

    def _tile(self, x: Expr, layout: TokenLayout, features: int) -> Expr:
        op = relax.op
        x = self.op(op.reshape(x, [layout.sequences, layout.tokens, features]))
        if layout.padded != layout.tokens:
            x = self.op(op.nn.pad(x, [0, 0, 0, layout.padded - layout.tokens, 0, 0]))
        x = self.op(op.reshape(x, [layout.tiles, layout.tile, features]))
        return self.op(op.permute_dims(x, [0, 2, 1]))

    def _untile(self, value: Value) -> Expr:
        assert value.tiled is not None and value.layout is not None, "a value has neither form"
        op, layout = relax.op, value.layout
        features = shape(value.tiled)[1]
        x = self.op(op.permute_dims(value.tiled, [0, 2, 1]))
        x = self.op(op.reshape(x, [layout.sequences, layout.padded, features]))
        if layout.padded != layout.tokens:
            x = self.op(op.strided_slice(x, [1], [0], [layout.tokens]))
        if value.heads is None:
            return self.op(op.reshape(x, list(value.shape)))
        order = value.shape if value.heads == "bshd" else tuple(value.shape[i] for i in (0, 2, 1, 3))
        x = self.op(op.reshape(x, list(order)))
        return x if value.heads == "bshd" else self.op(op.permute_dims(x, [0, 2, 1, 3]))

    def op(self, expr: Expr) -> Var:
        return self.builder.emit(expr)

    def constant(self, const: Expr) -> Expr:
        """Small constants stay in the code, large ones become weights."""
        size = math.prod(shape(const))
        return const if size <= _WEIGHT_ELEMENTS else self.weight(np.from_dlpack(const.value), const)

    def weight(self, array: np.ndarray, owner: Any = None) -> Var:
        """A parameter of main that holds `array`. The same owner gets the same parameter."""
        owner = array if owner is None else owner
        known = self._weight_of.get(hash(owner) if owner is not array else id(array))
        if known is not None:
            return known[0]
        name = f"w{len(self.weights)}"
        var = relax.Var(name, relax.TensorType(list(array.shape), str(array.dtype)))
        self.weights[name] = array
        self.weight_vars.append(var)
        self._weight_of[hash(owner) if owner is not array else id(array)] = (var, owner)
        return var

    def kernel(self, key: Any, build: Callable[[], Any]) -> Any:
        """The GlobalVar of a generated kernel, built once."""
        if key not in self._kernels:
            func = build()
            name = f"{func.attrs['global_symbol']}_{len(self._kernels)}"
            func = func.with_attr({"global_symbol": name, "tirx.is_scheduled": 1, "op_pattern": _CALL_TIR_OPAQUE})
            self._kernels[key] = self.builder.add_func(func, name)
        return self._kernels[key]

    def call(self, kernel: Any, args: list[Expr], out: tuple[int, ...]) -> Var:
        return self.op(relax.call_tir(kernel, args, relax.TensorType(list(out), "float32")))

    # nodes

    def _node(self, node: Node) -> None:
        if isinstance(node.what, Layer):
            value = self._linear(node, node.what) if node.what.geometry is None else self._conv2d(node, node.what)
        elif isinstance(node.what, AttentionCall):
            value = self._attention(node, node.what)
        else:
            value = self._view(node) or self._layer_norm(node) or self._elementwise(node) or self._as_it_was(node)
        self.values[node.var] = value

    def _linear(self, node: Node, layer: Layer) -> Value:
        x_shape = self.values[layer.x].shape
        layout = self.values[layer.x].layout if self.values[layer.x].heads is None else None
        layout = layout or layout_of(x_shape, self.target.lanes)
        rows, cols = layer.matrix.shape
        spec = MatmulSpec.linear(rows, cols, layout.tiles, layout.tile, self._epilogue(layer))
        residual = None if layer.residual is None else self.tiled(layer.residual, layout)
        result = self._matmul(spec, layer, self.tiled(layer.x, layout), residual)
        return Value(shape(node.var), tiled=result, layout=layout)

    @staticmethod
    def _epilogue(layer: Layer) -> Epilogue:
        return Epilogue(layer.activation, layer.residual is not None, layer.residual_first)

    def _matmul(self, spec: MatmulSpec, layer: Layer, x: Expr, residual: Expr | None) -> Var:
        """One call of the chosen kernel. Its output has spec.y_shape."""
        plan = self.chooser.choose(spec, layer)
        weights = [self.weight(array) for array in plan.weights]
        bias = weights[plan.bias_index]
        kernel = self.kernel((plan.kernel, spec, plan.knobs), lambda: plan.build(spec))
        return self.call(kernel, [x, *weights, bias if residual is None else residual], spec.y_shape)

    def _conv2d(self, node: Node, layer: Layer) -> Value:
        batch, channels, height, width = shape(layer.x)
        out_shape = shape(node.var)
        if out_shape[2:] == (1, 1) and (height, width) == (1, 1):
            return self._conv_of_one_pixel(node, layer)
        plane = plane_of(layer.geometry, channels, (height, width), out_shape[2:], self.target.lanes)
        x = self._plane(self.natural(layer.x), plane, batch, channels)
        epilogue = self._epilogue(layer)
        rows = len(layer.matrix)
        spec = MatmulSpec(rows, channels, batch, plane.positions, plane.size, plane.pitch, plane.taps, epilogue)
        residual = None
        if layer.residual is not None:
            residual = self.op(relax.op.reshape(self.natural(layer.residual), [batch, rows, plane.height * plane.width]))
            if plane.pitch != plane.height * plane.width:
                residual = self.op(relax.op.nn.pad(residual, [0, 0, 0, 0, 0, plane.pitch - plane.height * plane.width]))
        y = self._matmul(spec, layer, x, residual)
        return Value(out_shape, natural=self._crop(y, plane, out_shape))

    def _conv_of_one_pixel(self, node: Node, layer: Layer) -> Value:
        """A convolution of 1×1 images is a linear layer over the batch (squeeze-and-excitation). Its kernel's centre may be larger than 1×1."""
        assert layer.geometry is not None
        (kh, kw), (top, left) = layer.geometry.kernel, layer.geometry.padding[:2]
        batch, channels = shape(layer.x)[:2]
        matrix = layer.matrix.reshape(len(layer.matrix), kh, kw, channels)[:, min(top, kh - 1), min(left, kw - 1)]
        x = self.op(relax.op.reshape(self.natural(layer.x), [batch, channels]))
        layout = layout_of((batch, channels), self.target.lanes)
        flat = replace(layer, matrix=matrix, geometry=None)
        residual = None
        if layer.residual is not None:
            residual = self._tile(self.natural(layer.residual), layout, len(matrix))
        spec = MatmulSpec.linear(len(matrix), channels, layout.tiles, layout.tile, self._epilogue(layer))
        y = self._matmul(spec, flat, self._tile(x, layout, channels), residual)
        value = Value((batch, len(matrix)), tiled=y, layout=layout)
        return Value(shape(node.var), natural=self.op(relax.op.reshape(self._untile(value), list(shape(node.var)))))

    def _plane(self, x: Expr, plane: Plane, batch: int, channels: int) -> Expr:
        """[batch, channels, height, width] → [batch, channels, plane.size], padded, with the phases of a stride one behind the other."""
        op = relax.op
        (top, left, bottom, right), (sh, sw) = plane.padding, plane.phases
        if plane.skip != (1, 1):
            x = self.op(op.strided_slice(x, [2, 3], [0, 0], list(shape(x)[2:]), list(plane.skip)))
        crop = [shape(x)[2] + min(bottom, 0), shape(x)[3] + min(right, 0)]
        if crop != list(shape(x)[2:]):
            x = self.op(op.strided_slice(x, [2, 3], [0, 0], crop))
        if (top, left, max(bottom, 0), max(right, 0)) != (0, 0, 0, 0):
            x = self.op(op.nn.pad(x, [0, 0, 0, 0, top, max(bottom, 0), left, max(right, 0)]))
        if (sh, sw) != (1, 1):
            x = self.op(op.reshape(x, [batch, channels, plane.rows, sh, plane.cols, sw]))
            x = self.op(op.permute_dims(x, [0, 1, 3, 5, 2, 4]))
        x = self.op(op.reshape(x, [batch, channels, sh * sw * plane.rows * plane.cols]))
        missing = plane.size - sh * sw * plane.rows * plane.cols
        return self.op(op.nn.pad(x, [0, 0, 0, 0, 0, missing])) if missing else x

    def _crop(self, y: Expr, plane: Plane, out: tuple[int, ...]) -> Expr:
        """[batch, rows, plane.pitch] → [batch, rows, height, width]."""
        op = relax.op
        used = plane.height * plane.cols
        if plane.pitch != used:
            y = self.op(op.strided_slice(y, [2], [0], [used]))
        y = self.op(op.reshape(y, [out[0], out[1], plane.height, plane.cols]))
        return y if plane.cols == plane.width else self.op(op.strided_slice(y, [3], [0], [plane.width]))

    def _attention(self, node: Node, call: AttentionCall) -> Value:
        batch, heads, queries, dim = shape(call.q)
        kv_heads, keys, value_dim = shape(call.v)[1:]
        lanes = self.target.lanes
        q_layout = TokenLayout(batch, queries, layout_of((1, queries, 1), lanes).tile)
        k_layout = TokenLayout(batch, keys, layout_of((1, keys, 1), lanes).tile)
        q, v = self._heads_tiled(call.q, q_layout, "bhsd"), self._heads_tiled(call.v, k_layout, "bhsd")
        k = self._heads_tiled(call.k, k_layout, "bhds" if call.keys_transposed else "bhsd")
        mask, mask_shape = relax.const(np.zeros((1, 1, 1, 1), np.float32)), None
        if call.mask is not None:
            mask_shape = (1,) * (4 - len(shape(call.mask))) + shape(call.mask)
            mask = self.op(relax.op.reshape(self._narrow(call.mask), [1] * (4 - len(mask_shape)) + self._narrowed(call.mask)))
            mask_shape = shape(mask)
            if mask_shape[3] != keys:
                mask = self.op(relax.op.broadcast_to(mask, [*mask_shape[:3], keys]))
                mask_shape = (*mask_shape[:3], keys)
        spec = attention.AttentionSpec(
            batch, heads, kv_heads, queries, keys, dim, value_dim, q_layout.tile, k_layout.tile, float(call.scale), call.causal, mask_shape
        )
        kernel = self.kernel(spec, lambda: attention.build(spec, self.target))
        out = self.call(kernel, [q, k, v, mask], q_layout.shape(heads * value_dim))
        return Value(shape(node.var), tiled=out, layout=q_layout, heads="bhsd")

    def _narrow(self, expr: Expr) -> Expr:
        """A mask before it was broadcast over queries: the kernel broadcasts by itself, and a row of keys is read faster."""
        node = self.program.node(expr)
        if node is not None and node.op == "broadcast_to":
            return self._narrow(node.args[0])
        if node is not None and node.op in ("bitwise_and", "logical_and"):
            for mask, other in (node.args, node.args[::-1]):
                value = self.program.constant(other)
                if value is not None and value.all():
                    return self._narrow(mask)
        if node is not None and node.op == "where" and all(self.program.scalar(arg) is not None for arg in node.args[1:]):
            condition = self._narrow(node.args[0])
            return self.op(relax.op.where(condition, *(self.natural(arg) for arg in node.args[1:])))
        return self.natural(expr)

    def _narrowed(self, expr: Expr) -> list[int]:
        narrow = list(shape(self._narrow(expr)))
        return [1] * (4 - len(narrow)) + narrow

    def _heads_tiled(self, expr: Var, layout: TokenLayout, order: str) -> Expr:
        """[batch, heads, tokens, dim] (or "bhds") as [tiles, heads·dim, tile]."""
        value = self.values[expr]
        if value.heads == order and value.layout == layout and value.tiled is not None:
            return value.tiled
        op = relax.op
        x = self.op(op.permute_dims(self.natural(expr), [0, 2, 1, 3] if order == "bhsd" else [0, 3, 1, 2]))
        batch, tokens, heads, dim = shape(x)
        return self._tile(self.op(op.reshape(x, [batch, tokens, heads * dim])), layout, heads * dim)

    def _view(self, node: Node) -> Value | None:
        """Reshapes and transposes between [batch, tokens, heads·dim] and heads, for which tiles need not move."""
        value = self.values.get(node.args[0]) if node.args and isinstance(node.args[0], relax.Var) else None
        if value is None or value.tiled is None or value.layout is None:
            return None
        new, layout = shape(node.var), value.layout
        view = Value(new, tiled=value.tiled, layout=layout)
        if node.op in ("reshape", "expand_dims", "squeeze"):
            if value.heads is None and new[-1] == value.shape[-1]:
                return view
            tokens = (layout.sequences, layout.tokens)
            if value.heads is None and len(new) == 4 and new[:2] == tokens and new[2] * new[3] == value.shape[-1]:
                return replace(view, heads="bshd")
            if value.heads == "bshd" and math.prod(new[:-1]) == math.prod(tokens) and new[-1] == value.shape[2] * value.shape[3]:
                return view
        if node.op == "permute_dims" and value.heads in ("bshd", "bhsd") and tuple(int(a) for a in node.attrs.axes or ()) == (0, 2, 1, 3):
            return replace(view, heads="bhsd" if value.heads == "bshd" else "bshd")
        if node.op == "permute_dims" and value.heads == "bshd" and tuple(int(a) for a in node.attrs.axes or ()) == (0, 2, 3, 1):
            return replace(view, heads="bhds")
        return None

    def _layer_norm(self, node: Node) -> Value | None:
        if node.op != "nn.layer_norm" or [int(a) % len(shape(node.var)) for a in node.attrs.axes] != [len(shape(node.var)) - 1]:
            return None
        x, gamma, beta = node.args
        value = self.values[x]
        if len(value.shape) < 2 or math.prod(value.shape[:-1]) < self.target.lanes:
            return None
        layout = value.layout if value.tiled is not None and value.heads is None else None
        layout = layout or layout_of(value.shape, self.target.lanes)
        spec = layer_norm.LayerNormSpec(layout.tiles, value.shape[-1], layout.tile, float(node.attrs.epsilon))
        kernel = self.kernel(spec, lambda: layer_norm.build(spec, self.target))
        out = self.call(kernel, [self.tiled(x, layout), self.natural(gamma), self.natural(beta)], layout.shape(value.shape[-1]))
        return Value(value.shape, tiled=out, layout=layout)

    def _elementwise(self, node: Node) -> Value | None:
        """On tiles when everything of full shape is in tiles already; scalars and [features] vectors fit themselves to that."""
        if node.op not in _TILED_UNARY | _TILED_BINARY | {"gelu", "silu", "relu6", "hardswish"}:
            return None
        new = shape(node.var)
        full = [self.values[arg] for arg in node.args if isinstance(arg, relax.Var) and shape(arg) == new and self.program.constant(arg) is None]
        layouts = [value.layout for value in full if value.tiled is not None and value.heads is None]
        if not full or len(layouts) != len(full) or any(layout != layouts[0] for layout in layouts):
            return self._named(node) if node.op in ("gelu", "silu", "relu6", "hardswish") else None
        args = [self._tiled_operand(arg, new) for arg in node.args]
        if any(arg is None for arg in args):
            return None
        result = self._named_op(node.op, args) if node.op in ("gelu", "silu", "relu6", "hardswish") else self.op(relax.Call(node.expr.op, args, node.expr.attrs))
        return Value(new, tiled=result, layout=layouts[0])

    def _tiled_operand(self, arg: Expr, full: tuple[int, ...]) -> Expr | None:
        constant = self.program.constant(arg)
        if constant is None:
            return self.values[arg].tiled if shape(arg) == full else None
        if constant.size == 1:
            return relax.const(np.ascontiguousarray(constant).reshape(()))
        if constant.size == full[-1] and constant.shape[-1] == full[-1]:
            return self.weight(np.ascontiguousarray(constant).reshape(1, -1, 1))
        return None

    def _named(self, node: Node) -> Value:
        return Value(shape(node.var), natural=self._named_op(node.op, [self.natural(node.args[0])]))

    def _named_op(self, name: str, args: list[Expr]) -> Var:
        op, x = relax.op, args[0]
        if name == "hardswish":
            gate = self.op(op.clip(self.op(op.add(x, relax.const(3.0))), 0, 6))
            return self.op(op.multiply(self.op(op.multiply(x, gate)), relax.const(np.float32(1 / 6))))
        return self.op({"gelu": op.nn.gelu, "silu": op.nn.silu, "relu6": lambda v: op.clip(v, 0, 6)}[name](x))

    def _as_it_was(self, node: Node) -> Value:
        """The same operator on natural operands."""
        expr = node.expr
        if node.op == "tuple":
            return Value((), natural=self.op(relax.Tuple([self.natural(arg) for arg in node.args])))
        if node.op == "getitem":
            return Value(shape(node.var), natural=self.op(relax.TupleGetItem(self.natural(node.args[0]), expr.index)))
        if node.op == "alias":
            return Value(shape(node.var), natural=self.natural(node.args[0]))
        if node.op == "take":  # importers ask for unchecked reads; an index out of range must not leave the table
            x, index = (self.natural(arg) for arg in node.args)
            return Value(shape(node.var), natural=self.op(relax.op.take(x, index, axis=expr.attrs.axis, mode="clip")))
        leaves = iter(node.args)
        args = [self._rebuilt(arg, leaves) for arg in expr.args]
        types = list(expr.ty_args) if hasattr(expr, "ty_args") else list(expr.sinfo_args)
        tensor = not isinstance(node.var.ty, relax.TupleType)
        return Value(shape(node.var) if tensor else (), natural=self.op(relax.Call(expr.op, args, expr.attrs, types)))

    def _rebuilt(self, arg: Expr, leaves: Any) -> Expr:
        if isinstance(arg, relax.Tuple):
            return relax.Tuple([self._rebuilt(field, leaves) for field in arg.fields])
        leaf = next(leaves)
        return self._function(leaf) if isinstance(leaf, relax.GlobalVar) else self.natural(leaf)

    def _function(self, gvar: Any) -> Any:
        """A PrimFunc that the importer has made, added once."""
        if gvar not in self._functions:
            self._functions[gvar] = self.builder.add_func(self.program.functions[gvar], gvar.name_hint)
        return self._functions[gvar]
