"""What an importer hands to lowering: one Relax function, in which the operators of the vocabulary are placeholders."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from sparsecc import ops
from sparsecc.codegen.tvm_api import GenericConst, relax
from sparsecc.errors import ModelError

if TYPE_CHECKING:
    import numpy as np

    from sparsecc.forms import Form

W = TypeVar("W")

PREFIX = "sparsecc."
Convert = Callable[[Any, list[Any], dict[str, Any]], Any]  # of a builder, the inputs and the attributes of an ONNX operator


@dataclass(frozen=True)
class Placeholder:
    """An operator that Relax has no word for. kind: linear, conv2d and block_attention for those of `sparsecc.ops`, and more of importers.

    stored: the weight of a layer that is not dense.  attributes: geometry, scale, block map and so on.
    """

    kind: str
    name: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    stored: Form | None = None
    bias: np.ndarray | None = None


@dataclass
class Imported:
    """module: `main` takes the model's inputs and returns a tuple of its outputs; all weights are constants."""

    module: Any
    placeholders: dict[str, Placeholder]


@dataclass
class Placeholders:
    """Collects placeholders while an importer runs and makes the Relax calls that stand for them."""

    found: dict[str, Placeholder] = field(default_factory=dict)

    def call(self, placeholder: Placeholder, args: list[Any], shape: list[int], dtype: str = "float32") -> Any:
        key = f"{PREFIX}{len(self.found)}"
        self.found[key] = placeholder
        return relax.op.call_dps_packed(key, args, relax.TensorType(shape, dtype))


def by_site(name: str, ways: Mapping[str, W]) -> W:
    """Of the ways for kinds of site, the one to import an operator of `sparsecc.ops`. Raises ModelError where it takes none's place."""
    takes = ops.operator(name).takes
    for kind in takes:
        if kind in ways:
            return ways[kind]
    raise ModelError(f"operator '{name}' takes the place of {' or '.join(takes)}; the compiler knows {' and '.join(ways)}")


def args_of(node: Any) -> tuple[Any, ...]:
    """The positional arguments of a torch node, of types that its operator's schema guarantees."""
    return node.args


def arguments(node: Any) -> dict[str, Any]:
    """All arguments of a torch node by their names in the operator's schema, defaults included."""
    schema = node.target._schema.arguments
    given = {argument.name: value for argument, value in zip(schema, node.args, strict=False)}
    return {argument.name: argument.default_value for argument in schema} | given | dict(node.kwargs)


def added(builder: Any, mask: Any) -> Any:
    """A mask of attention, bool (true where a key is seen) or added already, as what is added to the scores."""
    if mask.ty.dtype.dtype != "bool":
        return mask
    return builder.emit(relax.op.where(mask, relax.const(0.0, "float32"), relax.const(-math.inf, "float32")))


def shape_of(expr: Any) -> list[int]:
    """The static shape of a Relax expression."""
    return [int(d) for d in expr.ty.shape]


def converter(convert: Convert) -> Any:
    """For TVM's table of ONNX converters."""

    class Converter:
        @classmethod
        def get_converter(cls, opset: int) -> Any:
            return lambda builder, inputs, attributes, params: convert(builder, list(inputs), attributes)

    return Converter


def constant_of(expr: Any, what: str) -> np.ndarray:
    """Raises ModelError for what the model computes."""
    if not isinstance(expr, GenericConst):
        raise ModelError(f"its {what} must be a constant of the model")
    return expr.value.numpy()


def dtype_of(expr: Any) -> str:
    return str(expr.ty.dtype.dtype)


def text_of(value: Any) -> str:
    """An attribute of an ONNX operator."""
    return value.decode() if isinstance(value, bytes) else str(value)


def conv_output_shape(x: list[int], rows: int, attributes: Mapping[str, Any]) -> list[int]:
    """[batch, rows, height, width] of a convolution with attributes kernel, stride, padding (t, l, b, r), dilation."""
    top, left, bottom, right = attributes["padding"]
    sizes = []
    for size, pad, axis in ((x[2], top + bottom, 0), (x[3], left + right, 1)):
        reach = attributes["dilation"][axis] * (attributes["kernel"][axis] - 1) + 1
        sizes.append((size + pad - reach) // attributes["stride"][axis] + 1)
    return [x[0], rows, *sizes]
