"""Folding that onnxslim leaves undone and that would hide a layer: transposed weights, Gemm's factors, scales after a convolution."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsecc.graph.onnx.nodes import unused


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer that callers cannot override, else None."""
    if value is None or value.const_value is None or not value.is_initializer() or value.is_graph_input():
        return None
    return value.const_value.numpy()


def only_use(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value, None when there are more, or when the model returns it."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def lift_weights(model: ir.Model) -> None:
    """Give every product its weight directly.

    MatMul(x, Transpose(W))        ->  MatMul(x, Wᵀ)          when nothing else reads W
    Gemm(x, W, c, alpha, beta)     ->  Gemm(x, alpha W, beta c)
    """
    for node in list(model.graph):
        if node.op_type in ("MatMul", "Gemm") and len(node.inputs) > 1:
            _lift_transpose(node)
        if node.op_type == "Gemm":
            _fold_factor(node, "alpha", 1)
            _fold_factor(node, "beta", 2)


def fold_norms(model: ir.Model) -> None:
    """Conv | ConvTranspose -> BatchNormalization with constants  ->  Conv | ConvTranspose with changed weight and bias."""
    for node in list(model.graph):
        if node.op_type in ("Conv", "ConvTranspose") and node.domain == "":
            _fold_norm(node)


def _fold_norm(conv: ir.Node) -> None:
    norm = only_use(conv.outputs[0])
    if norm is None or norm.op_type != "BatchNormalization" or norm.attributes.get_int("training_mode", 0):
        return
    if norm.inputs[0] is not conv.outputs[0] or any(value.uses() or value.is_graph_output() for value in norm.outputs[1:]):
        return
    scale, shift, mean, variance = (constant(value) for value in norm.inputs[1:5])
    weight = _own(conv.inputs[1])
    if weight is None or scale is None or shift is None or mean is None or variance is None:
        return
    if scale.dtype != weight.dtype or (len(conv.inputs) > 2 and conv.inputs[2] is not None and _own(conv.inputs[2]) is None):
        return
    factor = scale / np.sqrt(variance + variance.dtype.type(norm.attributes.get_float("epsilon", 1e-5)))
    bias_value = _bias(conv, len(scale), weight.dtype)
    bias = constant(bias_value)
    assert bias is not None
    put(conv.inputs[1], _scaled(conv, weight, factor))
    put(bias_value, ((bias - mean) * factor + shift).astype(bias.dtype))
    _drop(norm, conv)


def _own(value: ir.Value | None) -> np.ndarray | None:
    """The array of a constant that nothing else reads."""
    return constant(value) if value is not None and only_use(value) is not None else None


def _scaled(conv: ir.Node, weight: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """The weight with each output channel times its factor. Conv: [out, in, ...], ConvTranspose: [in, out of one group, ...]."""
    ones = [1] * (weight.ndim - 2)
    if conv.op_type == "Conv":
        return (weight * factor.reshape(-1, 1, *ones)).astype(weight.dtype)
    groups = conv.attributes.get_int("group", 1)
    grouped = weight.reshape(groups, -1, *weight.shape[1:]) * factor.reshape(groups, 1, -1, *ones)
    return grouped.reshape(weight.shape).astype(weight.dtype)


def _bias(conv: ir.Node, channels: int, dtype: np.dtype) -> ir.Value:
    """The bias of a convolution, zeros that it is given where it has none."""
    found = conv.inputs[2] if len(conv.inputs) > 2 else None
    if found is None:
        found = new_constant(conv, f"{conv.outputs[0].name}_bias", np.zeros(channels, dtype))
        conv.resize_inputs(3)
        conv.replace_input_with(2, found)
    return found


def fold_scales(model: ir.Model) -> None:
    """Conv | ConvTranspose -> Mul | Add with one number per output channel (or one for all)  ->  with changed weight and bias."""
    for node in list(model.graph):
        if node.op_type in ("Conv", "ConvTranspose") and node.domain == "":
            while _fold_next(node):
                pass


def unflatten_softmaxes(model: ir.Model) -> None:
    """Flatten(x, axis=last) -> Softmax -> Reshape(Shape(x))  ->  Softmax(x), what converting opset 12 to 13 leaves behind."""
    for node in list(model.graph):
        if node.op_type in ("Softmax", "LogSoftmax", "Hardmax") and node.attributes.get_int("axis", -1) in (-1, 1):
            _unflatten(node)


def _unflatten(node: ir.Node) -> None:
    flatten, reshape = node.inputs[0].producer() if node.inputs[0] is not None else None, only_use(node.outputs[0])
    if flatten is None or flatten.op_type != "Flatten" or reshape is None or reshape.op_type != "Reshape":
        return
    x, shape = flatten.inputs[0], reshape.inputs[1]
    if x is None or x.shape is None or flatten.attributes.get_int("axis", 1) != len(x.shape) - 1 or not _is_shape_of(shape, x):
        return
    node.replace_input_with(0, x)
    node.attributes["axis"] = ir.AttrInt64("axis", -1)
    _drop(reshape, node)
    if not flatten.outputs[0].uses() and flatten.graph is not None:
        flatten.graph.remove(flatten, safe=True)


def _is_shape_of(shape: ir.Value | None, x: ir.Value) -> bool:
    producer = shape.producer() if shape is not None else None
    if producer is not None:
        return producer.op_type == "Shape" and producer.inputs[0] is x and not producer.attributes
    array = constant(shape)
    return array is not None and x.shape is not None and list(array) == list(x.shape)


def _lift_transpose(node: ir.Node) -> None:
    transposed = node.inputs[1]
    producer = transposed.producer() if transposed is not None else None
    if producer is None or producer.op_type != "Transpose" or only_use(producer.outputs[0]) is None:
        return
    source = producer.inputs[0]
    weight = constant(source)
    if weight is None or weight.ndim < 2 or source is None or only_use(source) is None:
        return
    axes = producer.attributes.get_ints("perm", [*range(weight.ndim)][::-1])
    node.replace_input_with(1, source)
    if producer.graph is not None:
        producer.graph.remove(producer, safe=True)
    put(source, np.ascontiguousarray(weight.transpose(axes)))


def _fold_factor(node: ir.Node, name: str, index: int) -> None:
    factor = node.attributes.get_float(name, 1.0)
    value = node.inputs[index] if len(node.inputs) > index else None
    array = constant(value)
    if factor == 1.0 or (value is not None and (array is None or only_use(value) is None)):
        return
    if value is not None and array is not None:
        put(value, array * array.dtype.type(factor))
    node.attributes[name] = ir.AttrFloat32(name, 1.0)


def _fold_next(conv: ir.Node) -> bool:
    after = only_use(conv.outputs[0])
    weight_value, bias_value = conv.inputs[1], conv.inputs[2] if len(conv.inputs) > 2 else None
    weight = constant(weight_value)
    if after is None or after.op_type not in ("Mul", "Add") or weight is None:
        return False
    if any(value is not None and (constant(value) is None or only_use(value) is None) for value in (weight_value, bias_value)):
        return False
    other = after.inputs[1] if after.inputs[0] is conv.outputs[0] else after.inputs[0]
    channels = len(weight) if conv.op_type == "Conv" else weight.shape[1] * conv.attributes.get_int("group", 1)
    number = _per_channel(constant(other), weight.ndim, channels)
    if number is None or number.dtype != weight.dtype:
        return False
    bias_value = _bias(conv, channels, weight.dtype)
    bias = constant(bias_value)
    assert bias is not None
    if after.op_type == "Mul":
        put(weight_value, _scaled(conv, weight, number))
        put(bias_value, bias * number)
    else:
        put(bias_value, bias + number)
    _drop(after, conv)
    return True


def _per_channel(array: np.ndarray | None, rank: int, channels: int) -> np.ndarray | None:
    """[channels], when an operand [1, channels, 1, ...] or a single number is that."""
    if array is None or array.ndim > rank:
        return None
    if array.size == 1:
        return np.broadcast_to(array.reshape(1), (channels,))
    padded = (1,) * (rank - array.ndim) + array.shape
    return array.reshape(channels) if padded == (1, channels) + (1,) * (rank - 2) else None


def _drop(node: ir.Node, before: ir.Node) -> None:
    """Remove a node whose result the node before it now computes itself, under the name it had."""
    graph, old, new = node.graph, node.outputs[0], before.outputs[0]
    assert graph is not None
    new.name, new.shape, new.type = old.name, old.shape, old.type or new.type
    ir.convenience.replace_all_uses_with([old], [new], replace_graph_outputs=True)
    graph.remove(node, safe=True)


def put(value: ir.Value | None, array: np.ndarray) -> None:
    """Another array for an initializer."""
    assert value is not None
    value.const_value = ir.Tensor(array, name=value.name)
    value.shape = ir.Shape(array.shape)


def free_name(graph: ir.Graph, name: str) -> str:
    """`name`, or `name_1`, `name_2`, ... : the first that no value has."""
    taken = {*graph.initializers, *(value.name for value in graph.inputs)}
    taken |= {value.name for node in graph.all_nodes() for value in node.outputs}
    return unused(name, taken)


def new_constant(node: ir.Node, name: str, array: np.ndarray) -> ir.Value:
    """A new initializer in the graph of `node`, by this name if no value has it."""
    assert isinstance(node.graph, ir.Graph)
    name = free_name(node.graph, name)
    tensor = ir.Tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    node.graph.register_initializer(value)
    return value
