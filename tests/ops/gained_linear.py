"""An operator of somebody else's, as the modules of a package: a weight whose rows are stored apart from their gains."""

TORCH = """
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsecc.errors import RecipeError
from sparsecc.forms import Form, dtype_of
from sparsecc.ops.base import SiteOp, TorchCall


class Gains:
    key = "gains"
    tensor_names = ("directions", "gains")

    def hold(self, rows: int, cols: int, tensors: Sequence[Tensor]) -> Gained:
        return Gained(rows, cols, dict(zip(self.tensor_names, tensors, strict=True)))


@dataclass(frozen=True)
class Gained(Form):
    word: ClassVar[str] = "gained"
    deed: ClassVar[str] = "gained in"
    sparse_format = nonzeros = None
    storage = Gains()
    rows: int
    cols: int
    tensors: Mapping[str, Tensor]

    @property
    def dtype(self) -> str:
        return dtype_of(self.tensors["directions"])

    def keep(self, layer: str = "") -> None:
        return None

    def dense(self, layer: str = "") -> Tensor:
        return self.tensors["directions"] * self.tensors["gains"]


@dataclass(frozen=True)
class GainedLinear(SiteOp):
    parameter: ClassVar[str] = "gained"

    @staticmethod
    def storage(key: str) -> Gains:
        if key != Gains.key:
            raise RecipeError(f"{key!r} is no way to store gains")
        return Gains()

    def torch_call(self, name: str) -> TorchCall:
        target = torch.ops.sparsecc.gained_linear.default
        return TorchCall(target, (self.stored.key, self.stored.rows, self.stored.cols, name))


@torch.library.custom_op(
    "sparsecc::gained_linear",
    mutates_args=(),
    schema="(Tensor x, Tensor[] parts, Tensor? bias, str gained, int rows, int cols, str name) -> Tensor",
)
def gained_linear(x, parts, bias, gained, rows, cols, name):
    y = x @ (parts[0] * parts[1]).T
    return y if bias is None else y + bias


@gained_linear.register_fake
def _fake(x, parts, bias, gained, rows, cols, name):
    return x.new_empty(*x.shape[:-1], rows)
"""

ONNX = """
from sparsecc.ops.onnx_layer import LayerFunctions, with_bias


class GainedLinearFunctions(LayerFunctions):
    def output(self, body, storage, rows, cols):
        weight = body.op("Mul", body.inputs["directions"], body.inputs["gains"])
        return with_bias(body, body.op("MatMul", body.inputs["x"], body.op("Transpose", weight, perm=[1, 0])))
"""

MODULES = {"gained_linear/__init__": "", "gained_linear/torch": TORCH, "gained_linear/onnx": ONNX}
POINTS = "[sparsecc.ops]\ngained_linear = gained_linear\n"
