"""A Relax function as a list of nodes that recognizers can fold into layers, and constants that numpy can see through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsecc.codegen.importers.base import PREFIX, Imported, Placeholder
from sparsecc.codegen.numbers import SIZE, Numbers
from sparsecc.codegen.tvm_api import GenericConst, relax
from sparsecc.errors import ModelError
from sparsecc.forms import Form
from sparsecc.precisions.base import Quantized

if TYPE_CHECKING:
    from sparsecc.attention.base import BlockMap
    from sparsecc.attention.dynamic import DynamicMap

Var = Any
Expr = Any


@dataclass(frozen=True)
class Geometry:
    """Of a convolution: kernel and dilation (h, w), stride (h, w), padding (top, left, bottom, right), negative where
    pixels are left out.

    depthwise: every channel is a group of its own, and depth is taps alone.  transposed: each pixel becomes kernel = stride pixels, and the
    rows are ordered (tap, output).  phases: into how many rows and columns each position is spread out afterwards, of which `crop`
    (rows, columns) are left out at the top left; the rows of the weight are ordered (phase, output).
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    depthwise: bool = False
    transposed: bool = False
    phases: tuple[int, int] = (1, 1)
    crop: tuple[int, int] = (0, 0)

    @property
    def pointwise(self) -> bool:
        return self.kernel == (1, 1) and self.padding == (0, 0, 0, 0) and not self.depthwise

    @property
    def keeps_pitch(self) -> bool:
        """Whether a residual lies like what the kernel writes."""
        return self.depthwise or (self.pointwise and self.phases == (1, 1))


@dataclass
class Layer:
    """A linear layer or convolution with what follows it folded in.

    weight: [rows, depth], ordered (tap, channel) for a convolution; in a form when it came so.
    site: the site's name when its weight came so, else None.  name: the site's, also of a dense one, where `names` has found it.
    """

    x: Var
    weight: np.ndarray | Form
    bias: np.ndarray | None = None
    geometry: Geometry | None = None
    site: str | None = None
    name: str | None = None
    activation: str | None = None
    residual: Var | None = None
    residual_first: bool = False
    scale: float = 1.0
    shift: float = 0.0

    @property
    def rows(self) -> int:
        return len(self.weight) if isinstance(self.weight, np.ndarray) else self.weight.rows

    @property
    def depth(self) -> int:
        return self.weight.shape[1] if isinstance(self.weight, np.ndarray) else self.weight.cols

    @property
    def matrix(self) -> np.ndarray:
        """The weight, dense; unpacked anew at each access, so that only one layer's needs memory at a time."""
        return self.weight if isinstance(self.weight, np.ndarray) else self.weight.dense(self.site or "").numpy()

    @property
    def packed(self) -> bool:
        """Whether the weight came in a sparse format."""
        return isinstance(self.weight, Form) and self.weight.sparse_format is not None

    @property
    def dtype(self) -> str:
        """Of what is multiplied: float32 where kernels do not know the numbers that are stored."""
        stored = self.weight.stored_dtype if isinstance(self.weight, Form) else "float32"
        return stored if stored in SIZE else "float32"

    @property
    def numbers(self) -> Numbers:
        """The weight as kernels multiply it; made anew at each access."""
        if isinstance(self.weight, Quantized) and self.dtype == "int8":
            return Numbers(self.weight.values(self.site or "").numpy(), self.weight.scales["scales"].reshape(-1).numpy())
        return Numbers(self.matrix)

    @property
    def input_scale(self) -> float | None:
        """Of all inputs, where calibration has found one."""
        found = self.weight.scales.get("input_scale") if isinstance(self.weight, Quantized) else None
        return None if found is None else float(found)


@dataclass
class AttentionCall:
    """q, k, v: [batch, heads, tokens, head_dim]; keys_transposed: k is [batch, heads, head_dim, tokens]."""

    q: Var
    k: Var
    v: Var
    scale: float
    causal: bool = False
    mask: Var | None = None
    keys_transposed: bool = False


@dataclass
class BlockAttentionCall:
    """q, k, v: [batch, heads, tokens, head_dim], in the model's token order.  precision: what they may be rounded to.  lists: where blocks
    are chosen in each call, int32[batch · kept], the key blocks of each row, as many as `DynamicMap.counts` says; where that says nothing,
    the mask leaves blocks out."""

    q: Var
    k: Var
    v: Var
    scale: float
    map: BlockMap | DynamicMap
    site: str
    precision: str = "float32"
    mask: Expr | None = None
    lists: Expr | None = None


@dataclass
class Subsampled:
    """The pixels of x [batch, channels, height, width] whose row and column are multiples of the stride (h, w)."""

    x: Var
    stride: tuple[int, int]


@dataclass(eq=False)
class Node:
    """One binding. op: Relax's operator without "relax.", or a recognized kind; `args` of a call, tuples flattened."""

    var: Var
    expr: Expr
    op: str
    args: list[Expr]
    what: Layer | AttentionCall | BlockAttentionCall | Subsampled | None = None

    @property
    def attrs(self) -> Any:
        return self.expr.attrs


@dataclass
class Program:
    nodes: list[Node]
    params: list[Var]
    outputs: list[Expr]
    placeholders: Mapping[str, Placeholder]
    functions: Mapping[Any, Any]  # PrimFuncs that the importer has made, by GlobalVar
    single: bool  # the function returns a tensor, not a tuple
    producer: dict[Var, Node] = field(default_factory=dict)
    users: dict[Var, list[Node]] = field(default_factory=dict)
    _constants: dict[Var, np.ndarray | None] = field(default_factory=dict)

    @staticmethod
    def of(imported: Imported) -> Program:
        function = imported.module["main"]
        nodes = [_node(binding) for block in function.body.blocks for binding in block.bindings]
        functions = {gvar: f for gvar, f in imported.module.functions.items() if gvar.name_hint != "main"}
        program = Program(nodes, list(function.params), [], imported.placeholders, functions, single=False)
        result = function.body.body
        tail = next((n for n in nodes if n.var == result), None)
        if tail is not None and tail.op == "tuple":
            program.outputs = list(tail.args)
            nodes.remove(tail)
        elif isinstance(result, relax.Tuple):
            program.outputs = list(result.fields)
        else:
            program.outputs, program.single = [result], True
        program.refresh()
        return program

    def refresh(self) -> None:
        """Recount producers and users; drop nodes whose results nobody uses."""
        while True:
            self.producer = {node.var: node for node in self.nodes}
            self.users = {}
            for node in self.nodes:
                for var in reads(node):
                    self.users.setdefault(var, []).append(node)
            kept = set(self.outputs_vars())
            live = [node for node in self.nodes if node.var in self.users or node.var in kept]
            if len(live) == len(self.nodes):
                return
            self.nodes = live

    def absorb(self, node: Node, user: Node, before: Sequence[Var]) -> None:
        """`user` stands for `node`, too, from now on. Producers and users are right afterwards; nodes whose results nobody uses stay until
        `refresh`, which looks at all nodes, and takes a minute where a model of thousands calls it for each layer.

        before: what `user` read until now.
        """
        self.nodes.remove(node)
        del self.producer[node.var]
        for var in {*reads(node), *before}:
            self.users[var] = [other for other in self.users.get(var, []) if other is not node and other is not user]
        for var in reads(user):
            self.users.setdefault(var, []).append(user)

    def outputs_vars(self) -> Iterator[Var]:
        return (out for out in self.outputs if isinstance(out, relax.Var))

    def only_user(self, var: Var) -> Node | None:
        """The node that alone reads `var`, once; None when it is an output, too."""
        users = self.users.get(var, [])
        if len(users) != 1 or any(var == out for out in self.outputs_vars()) or sum(var == read for read in reads(users[0])) != 1:
            return None
        return users[0]

    def node(self, expr: Expr) -> Node | None:
        return self.producer.get(expr) if isinstance(expr, relax.Var) else None

    def constant(self, expr: Expr) -> np.ndarray | None:
        """The value of an expression that depends on constants alone, through reshapes, transposes and arithmetic; else None."""
        if isinstance(expr, GenericConst):
            return np.from_dlpack(expr.value)
        node = self.node(expr)
        if node is None:
            return None
        if node.var not in self._constants:
            self._constants[node.var] = self._evaluate(node)
        return self._constants[node.var]

    def _evaluate(self, node: Node) -> np.ndarray | None:
        if node.op == "shape_to_tensor":
            return np.array([int(size) for size in node.args[0].ty.values], np.int64)
        fold = _FOLDS.get(node.op)
        if fold is None:
            return None
        values = [self.constant(arg) for arg in node.args if isinstance(arg.ty, relax.TensorType)]
        return None if any(value is None for value in values) else fold(node, *values)

    def scalar(self, expr: Expr) -> float | None:
        """The value of a constant with one element, else None."""
        value = self.constant(expr)
        return float(value.reshape(())) if value is not None and value.size == 1 else None


def shape(expr: Expr) -> tuple[int, ...]:
    return tuple(int(d) for d in expr.ty.shape)


def image_shape(expr: Expr) -> tuple[int, int, int, int]:
    """(batch, channels, height, width), lines [batch, channels, width] as images of height 1."""
    batch, channels, *pixels = shape(expr)
    height, width = (*[1] * (2 - len(pixels)), *pixels)
    return batch, channels, height, width


def dtype(expr: Expr) -> str:
    return str(expr.ty.dtype.dtype) if hasattr(expr.ty.dtype, "dtype") else str(expr.ty.dtype)


def pair(values: Any) -> tuple[int, int]:
    """(h, w), of which Relax writes one where they are equal."""
    return int(values[0]), int(values[-1])


def in_line(values: Any) -> tuple[int, int]:
    """(h, w) of what Relax writes for a line."""
    return 1, int(values[-1])


def line_sides(values: Any) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of what Relax writes for a line: one for both ends, or both."""
    return 0, int(values[0]), 0, int(values[-1])


def four_sides(values: Any) -> tuple[int, int, int, int]:
    """(top, left, bottom, right), of which Relax writes one for all, two for (h, w), or all four."""
    top, left, bottom, right = [int(v) for v in values] * (4 // len(values))
    return top, left, bottom, right


def reads(node: Node) -> list[Var]:
    """Variables that a node needs, with repeats."""
    if isinstance(node.what, Layer):
        return [var for var in (node.what.x, node.what.residual) if var is not None]
    if isinstance(node.what, Subsampled):
        return [node.what.x]
    if isinstance(node.what, AttentionCall | BlockAttentionCall):
        lists = node.what.lists if isinstance(node.what, BlockAttentionCall) else None
        return [var for var in (node.what.q, node.what.k, node.what.v, node.what.mask, lists) if isinstance(var, relax.Var)]
    return [arg for arg in node.args if isinstance(arg, relax.Var)]


def _node(binding: Any) -> Node:
    value: Any = binding.value if hasattr(binding, "value") else None
    if isinstance(value, relax.Tuple):
        return Node(binding.var, value, "tuple", list(value.fields))
    if isinstance(value, relax.TupleGetItem):
        return Node(binding.var, value, "getitem", [value.tuple_value])
    if isinstance(value, relax.Call):
        name = getattr(value.op, "name", "")
        if name == "relax.call_dps_packed" and value.args[0].global_symbol.startswith(PREFIX):
            return Node(binding.var, value, value.args[0].global_symbol, list(value.args[1].fields))
        return Node(binding.var, value, name.removeprefix("relax."), [f for arg in value.args for f in _flat(arg)])
    if isinstance(value, (relax.Var, GenericConst)):
        return Node(binding.var, value, "alias", [value])
    raise ModelError(f"the compiler cannot take control flow that depends on data ({type(value).__name__} at {binding.var.name})")


def _flat(arg: Expr) -> list[Expr]:
    return [leaf for field in arg.fields for leaf in _flat(field)] if isinstance(arg, relax.Tuple) else [arg]


def _permute(node: Node, x: np.ndarray) -> np.ndarray:
    return x.transpose(None if node.attrs.axes is None else [int(a) for a in node.attrs.axes])


def _reshape(node: Node, x: np.ndarray) -> np.ndarray:
    return x.reshape(shape(node.var))


def _slice(node: Node, x: np.ndarray) -> np.ndarray:
    axes, *bounds = ([int(value) for value in arg] for arg in node.expr.args[1:])
    at = [slice(None)] * x.ndim
    for axis, *bound in zip(axes, *bounds, strict=True):
        at[axis] = slice(*bound)
    return x[tuple(at)]


_FOLDS: dict[str, Callable[..., np.ndarray]] = {
    "permute_dims": _permute,
    **dict.fromkeys(("reshape", "expand_dims", "squeeze"), _reshape),
    "astype": lambda node, x: x.astype(dtype(node.var)),
    "broadcast_to": lambda node, x: np.broadcast_to(x, shape(node.var)),
    "add": lambda node, a, b: a + b,
    "subtract": lambda node, a, b: a - b,
    "multiply": lambda node, a, b: a * b,
    "divide": lambda node, a, b: (a / b).astype(dtype(node.var)),
    "negative": lambda node, a: -a,
    "sqrt": lambda node, a: np.sqrt(a),
    "strided_slice": _slice,
    "take": lambda node, a, index: np.take(a, index, None if node.attrs.axis is None else int(node.attrs.axis), mode="wrap"),
    "alias": lambda node, a: a,
}
