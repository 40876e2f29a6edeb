"""Which operator of a model it was: TVM and LLVM say what they cannot do in words of their own, with no name of the model in them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import onnx
from onnx import helper

from sparsecc.errors import ModelError
from sparsecc.graph.onnx.nodes import title, without_weights
from sparsecc.graph.onnx.valid import inner_graphs

logger = logging.getLogger(__name__)
SECONDS = 30.0  # that looking may take; it is done for a model that failed alone
_SHORT = 256  # characters of an attribute that tell two operators apart


def blamed(model: onnx.ModelProto, compile: Callable[[onnx.ModelProto], object]) -> str | None:
    """The first operator that does not compile by itself, as Type (at 'name'), or None: also where looking for it fails, since what
    the whole model failed with is to be told then. Operators with bodies are not tried, for these read values from outside.

    model: with fixed shapes.  compile: raises ModelError as it does for the whole model.
    """
    try:
        return _blamed(model, compile)
    except Exception as error:  # noqa: BLE001 - a second error must not take the place of the first
        logger.info("looking for the operator that does not compile failed: %s", error)
        return None


def _blamed(model: onnx.ModelProto, compile: Callable[[onnx.ModelProto], object]) -> str | None:
    end, tried = time.monotonic() + SECONDS, set()
    inferred = onnx.shape_inference.infer_shapes(without_weights(model))
    values = {v.name: v for v in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if time.monotonic() > end:
            return None
        alone = None if any(inner_graphs(node)) else _alone(node, model, values, weights)
        looks = None if alone is None else _looks(node, alone)
        if alone is None or looks in tried:
            continue
        tried.add(looks)
        try:
            compile(alone)
        except ModelError:
            return f"{node.op_type} (at '{title(node)}')"
    return None


def _alone(
    node: onnx.NodeProto, model: onnx.ModelProto, values: dict[str, onnx.ValueInfoProto], weights: dict[str, onnx.TensorProto]
) -> onnx.ModelProto | None:
    """A model of one operator; None where not all its types are known."""
    inputs = [name for name in dict.fromkeys(node.input) if name and name not in weights]
    outputs = [name for name in node.output if name]
    if not inputs or any(name not in values for name in (*inputs, *outputs)):
        return None
    kept = [weights[name] for name in dict.fromkeys(node.input) if name in weights]
    graph = helper.make_graph([node], "alone", [values[name] for name in inputs], [values[name] for name in outputs], kept)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _looks(node: onnx.NodeProto, alone: onnx.ModelProto) -> str:
    """Equal for operators that compile alike."""
    attributes = sorted(str(attribute)[:_SHORT] for attribute in node.attribute)
    types = [str(value.type) for value in alone.graph.input]
    constants = [(tensor.data_type, list(tensor.dims)) for tensor in alone.graph.initializer]
    return repr((node.op_type, attributes, types, constants))
