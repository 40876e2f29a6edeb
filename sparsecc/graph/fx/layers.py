"""Nodes of an aten graph that multiply by a stored weight: how each torch operator spells it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from sparsecc.ops.base import TORCH_NAMESPACE

aten = torch.ops.aten
HEIGHT = -2  # the axis that lines are given when a convolution along them becomes one of images


@dataclass(frozen=True)
class Geometry:
    """How a convolution slides; padding is (top, left, bottom, right). One along a line slides over images of height 1."""

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int


@dataclass(frozen=True)
class Layer:
    """x Wᵀ + b or a convolution, as one node. weight and bias are get_attr nodes.

    transposed: the stored tensor is [in, out].  geometry: of a convolution, None for a linear layer.
    """

    node: Node
    x: Node
    weight: Node
    bias: Node | None
    transposed: bool = False
    geometry: Geometry | None = None


@dataclass(frozen=True)
class OperatorLayer:
    """A call of an operator of the vocabulary that has a weight.

    tensors: the get_attr nodes of its weight.  operator, key: whose they are, and how they store it, see `SiteOp.storage`.
    """

    node: Node
    x: Node
    tensors: tuple[Node, ...]
    bias: Node | None
    operator: str
    key: str
    rows: int
    kernel: tuple[int, int] | None = None
    geometry: Geometry | None = None

    @property
    def in_line(self) -> bool:
        """Whether its images are lines that were given a height."""
        lifted = self.x.target is aten.unsqueeze.default and self.x.args[1] == HEIGHT
        return bool(lifted and self.kernel is not None and self.kernel[0] == 1)

    @property
    def cols(self) -> int:
        if self.kernel is None:
            return self.node.args[5]  # type: ignore[return-value]
        return math.prod(self.kernel) * int(self.x.meta["val"].shape[-3])


def stored(node: Any) -> Tensor | None:
    """The tensor that a get_attr node reads; None for everything else."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    value: Any = node.graph.owning_module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value if isinstance(value, Tensor) else None


def place_of(node: Node) -> str:
    """The path of the module that a node stems from, for messages; the node's name where it is the model itself."""
    modules = node.meta.get("nn_module_stack") or {}
    return (list(modules.values())[-1][0] if modules else "") or node.name


def transposed(node: Any) -> Node | None:
    """The get_attr node of the stored matrix that `node` is the transpose of; None for everything else."""
    if not isinstance(node, Node) or node.op != "call_function":
        return None
    tensor = stored(node.args[0]) if node.args else None
    return node.args[0] if tensor is not None and tensor.dim() == 2 and _turns_matrix(node) else None  # type: ignore[return-value]


def _turns_matrix(node: Node) -> bool:
    if node.target in (aten.t.default, aten.numpy_T.default):
        return True
    if node.target is aten.transpose.int:
        return node.args[1] % 2 != node.args[2] % 2  # type: ignore[operator]
    return node.target is aten.permute.default and [axis % 2 for axis in node.args[1]] == [1, 0]  # type: ignore[operator, union-attr]


def match(node: Any) -> Layer | OperatorLayer | None:
    """The layer that a node is; None for any other node, and for one whose weight or bias is computed."""
    if not isinstance(node, Node) or node.op != "call_function":
        return None
    name = str(node.target)
    if name.startswith(f"{TORCH_NAMESPACE}."):
        return _operator(node)
    found = _MATCHERS.get(name)
    return found(node) if found else None


def arguments(node: Node) -> dict[str, Any]:
    """A node's arguments by the names in its operator's schema, defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]
    given = dict(zip((argument.name for argument in schema.arguments), node.args, strict=False))
    defaults = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    return {**defaults, **given, **node.kwargs}


def _linear(node: Node) -> Layer | None:
    given = arguments(node)
    return _matrix_layer(node, given["input"], given["weight"], given["bias"], out_first=True)


def _addmm(node: Node) -> Layer | None:
    given = arguments(node)
    if given["beta"] != 1 or given["alpha"] != 1:
        return None
    return _matrix_layer(node, given["mat1"], given["mat2"], given["self"], out_first=False)


def _matmul(node: Node) -> Layer | None:
    x, weight = node.args[:2]
    return _matrix_layer(node, x, weight, None, out_first=False)


def _matrix_layer(node: Node, x: Any, weight: Any, bias: Any, *, out_first: bool) -> Layer | None:
    """out_first: whether the operator takes its weight as [out, in]."""
    turned = transposed(weight)
    if turned is not None:
        weight, out_first = turned, not out_first
    tensor = stored(weight)
    if tensor is None or tensor.dim() != 2 or not _takes(x, bias):
        return None
    return Layer(node, x, weight, bias, transposed=not out_first)


def _convolution(node: Node) -> Layer | None:
    given = arguments(node)
    weight = stored(given["weight"])
    if weight is None or weight.dim() not in (3, 4) or given.get("transposed") or not _takes(given["input"], given["bias"]):
        return None
    return Layer(node, given["input"], given["weight"], given["bias"], geometry=_geometry(given, weight.shape[2:]))


def _takes(x: Any, bias: Any) -> bool:
    """Whether x is computed and the bias, if any, is a stored vector."""
    vector = stored(bias)
    return isinstance(x, Node) and x.op != "get_attr" and (bias is None or (vector is not None and vector.dim() == 1))


def _geometry(given: dict[str, Any], kernel: torch.Size) -> Geometry:
    if len(kernel) == 2:
        stride, dilation = _pair(given["stride"]), _pair(given["dilation"])
    else:
        stride, dilation = (1, _pair(given["stride"])[1]), (1, _pair(given["dilation"])[1])
    return Geometry(stride, _padding(given["padding"], kernel, dilation), dilation, int(given["groups"]))


def _padding(padding: Any, kernel: torch.Size, dilation: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of a number, a pair, 'valid' or 'same' (torch puts an odd zero at the end)."""
    if len(kernel) == 1:
        padding = padding if isinstance(padding, str) else [0, _pair(padding)[1]]
        return _padding(padding, torch.Size((1, *kernel)), dilation)
    if padding == "valid":
        return (0, 0, 0, 0)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return (total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2)
    vertical, horizontal = _pair(padding)
    return (vertical, horizontal, vertical, horizontal)


def _pair(value: Any) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return (int(values[0]), int(values[-1]))


def _operator(node: Node) -> OperatorLayer | None:
    """Of an operator of ours that takes x, the tensors of a weight, a bias, the key of their storage, rows, and the geometry of a
    convolution; others have no bias."""
    given = arguments(node)
    if "bias" not in given:
        return None
    x, tensors, bias, key, rows = node.args[:5]
    kernel, geometry = None, None
    if "kernel" in given:
        kernel = _pair(given["kernel"])
        geometry = Geometry(_pair(given["stride"]), tuple(given["padding"]), _pair(given["dilation"]), 1)
    return OperatorLayer(node, x, tuple(tensors), bias, operator_of(node), key, rows, kernel, geometry)  # type: ignore[arg-type]


def operator_of(node: Node) -> str:
    """The name of a torch operator: what stands between its namespace and its overload."""
    return str(node.target).split(".")[1]


_MATCHERS: dict[str, Callable[[Node], Layer | None]] = {
    "aten.linear.default": _linear,
    "aten.addmm.default": _addmm,
    "aten.mm.default": _matmul,
    "aten.matmul.default": _matmul,
    "aten.conv1d.default": _convolution,
    "aten.conv1d.padding": _convolution,
    "aten.conv2d.default": _convolution,
    "aten.conv2d.padding": _convolution,
    "aten.convolution.default": _convolution,
}
