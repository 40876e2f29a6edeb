"""The operators of `sparsecc.ops` in a converted ONNX file, as placeholders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sparsecc import ops
from sparsecc.codegen.importers.base import Placeholder, Placeholders, by_site, conv_output_shape, shape_of, text_of
from sparsecc.codegen.tvm_api import GenericConst
from sparsecc.errors import ModelError
from sparsecc.ops.block_attention.onnx import restore

if TYPE_CHECKING:
    from sparsecc.forms import Form


def vocabulary_converter(op_type: str, placeholders: Placeholders) -> Any:
    """For TVM's table of converters."""
    name = ops.name_of(op_type)
    convert = by_site(name, _WAYS)

    class Converter:
        @classmethod
        def get_converter(cls, opset: int) -> Any:
            return lambda builder, inputs, attributes, params: convert(name, list(inputs), attributes, placeholders)

    return Converter


def _linear(operator: str, inputs: list[Any], attributes: dict[str, Any], placeholders: Placeholders) -> Any:
    form, bias = _weight_and_bias(operator, inputs, attributes)
    placeholder = Placeholder("linear", text_of(attributes["site"]), {}, form, bias)
    return placeholders.call(placeholder, inputs[:1], [*shape_of(inputs[0])[:-1], form.rows])


def _conv2d(operator: str, inputs: list[Any], attributes: dict[str, Any], placeholders: Placeholders) -> Any:
    form, bias = _weight_and_bias(operator, inputs, attributes)
    names = (("kernel", "kernel_shape"), ("stride", "strides"), ("padding", "pads"), ("dilation", "dilations"))
    geometry: dict[str, Any] = {name: tuple(int(v) for v in attributes[attribute]) for name, attribute in names}
    placeholder = Placeholder("conv2d", text_of(attributes["site"]), geometry, form, bias)
    return placeholders.call(placeholder, inputs[:1], conv_output_shape(shape_of(inputs[0]), form.rows, geometry))


def _block_attention(operator: str, inputs: list[Any], attributes: dict[str, Any], placeholders: Placeholders) -> Any:
    q, k, v, *constants = inputs
    mask = [constants.pop(0)] if attributes.get("masked") else []
    block_map = restore(attributes, [torch.from_numpy(_array(constant)) for constant in constants])
    known = {"map": block_map, "scale": float(attributes["scale"]), "precision": text_of(attributes.get("precision", "float32"))}
    placeholder = Placeholder("block_attention", text_of(attributes["site"]), known)
    return placeholders.call(placeholder, [q, k, v, *mask], [*shape_of(q)[:-1], shape_of(v)[-1]])


def _weight_and_bias(operator: str, inputs: list[Any], attributes: dict[str, Any]) -> tuple[Form, np.ndarray | None]:
    kind = ops.layer(operator)
    storage = kind.storage(text_of(attributes[kind.parameter]))
    count, arrays = len(storage.tensor_names), [_array(value) for value in inputs[1:]]
    form = storage.hold(int(attributes["rows"]), int(attributes["cols"]), [_tensor(array) for array in arrays[:count]])
    return form, arrays[count] if len(arrays) > count else None


def _tensor(array: np.ndarray) -> torch.Tensor:
    """torch has its own bfloat16, which numpy knows as a type of somebody else's."""
    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16) if array.dtype.name == "bfloat16" else torch.from_numpy(array)


def _array(value: Any) -> np.ndarray:
    if not isinstance(value, GenericConst):
        raise ModelError("packed weights must be constants of the model")
    return value.value.numpy()


_WAYS = {"Linear": _linear, "Conv2d": _conv2d, "Attention": _block_attention}  # by the kind of site
