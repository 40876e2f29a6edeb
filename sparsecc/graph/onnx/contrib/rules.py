"""The table of what can be taken apart, and the walk over a graph that does it."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from sparsecc.graph.onnx import kept
from sparsecc.graph.onnx.contrib import attention, elementwise, norms, products, quantized, recurrent, rotary
from sparsecc.graph.onnx.contrib.parts import CannotError, Known, Parts, Rule, Size
from sparsecc.graph.onnx.nodes import Names, constants, replace_nodes, without_weights

DOMAIN = "com.microsoft"
LAYERS: Mapping[str, Rule] = {  # with a weight that the standard operator shows to passes; onnxruntime fuses them again
    "FusedConv": products.fused_conv,
    "FusedGemm": products.fused_gemm,
    "FusedMatMul": products.fused_matmul,
    "FusedMatMulActivation": products.fused_matmul_activation,
    "GemmFastGelu": products.gemm_fast_gelu,
    "TransposeMatMul": products.fused_matmul,
}
RULES: Mapping[str, Rule] = {
    **LAYERS,
    "Attention": attention.attention,
    "BiasAdd": elementwise.bias_add,
    "BiasGelu": elementwise.bias_gelu,
    "BiasSoftmax": elementwise.bias_softmax,
    "DequantizeLinear": quantized.dequantize,
    "DynamicQuantizeLSTM": recurrent.dynamic_quantize_lstm,
    "DynamicQuantizeMatMul": quantized.dynamic_quantize_matmul,
    "EmbedLayerNormalization": norms.embed_layer_norm,
    "FastGelu": elementwise.fast_gelu,
    "Gelu": elementwise.gelu,
    "GroupQueryAttention": attention.group_query_attention,
    "MatMulIntegerToFloat": quantized.matmul_integer_to_float,
    "MatMulNBits": products.matmul_n_bits,
    "MultiHeadAttention": attention.multi_head_attention,
    "QAttention": quantized.q_attention,
    "QGemm": quantized.q_gemm,
    "QLinearAdd": quantized.q_linear_binary("Add"),
    "QLinearAveragePool": quantized.q_linear_unary(
        "AveragePool", "auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides"
    ),
    "QLinearConcat": quantized.q_linear_concat,
    "QLinearGlobalAveragePool": quantized.q_linear_unary("GlobalAveragePool"),
    "QLinearLeakyRelu": quantized.q_linear_unary("LeakyRelu", "alpha"),
    "QLinearMul": quantized.q_linear_binary("Mul"),
    "QLinearSigmoid": quantized.q_linear_unary("Sigmoid"),
    "QLinearSoftmax": quantized.q_linear_softmax,
    "QuantizeLinear": quantized.quantize,
    "QuickGelu": elementwise.quick_gelu,
    "Range": elementwise.range_of,
    "RotaryEmbedding": rotary.rotary_embedding,
    "SimplifiedLayerNormalization": norms.simplified_layer_norm,
    "SkipLayerNormalization": norms.skip_layer_norm,
    "SkipSimplifiedLayerNormalization": norms.skip_simplified_layer_norm,
    "Trilu": quantized.renamed,
}
_BESIDE: Mapping[str, Rule] = {  # in the standard domain: the first only in onnxruntime, the others with no counterpart in TVM
    "SimplifiedLayerNormalization": norms.simplified_layer_norm,
    "ConvInteger": quantized.conv_integer,
    "QLinearConv": quantized.q_linear_conv,
    "QLinearMatMul": quantized.q_linear_matmul,
}


def take_apart(proto: onnx.ModelProto, *, everything: bool = True) -> bool:
    """Put standard operators in the place of those of com.microsoft; whether there were any that can be.

    everything: else only those of LAYERS. A node that stays carries the reason in its metadata.
    """
    found = False
    while True:  # a shape behind one of them is known once it is taken apart
        rules = {place: rule for place, node in enumerate(proto.graph.node) if (rule := _rule(node, everything)) is not None}
        made = _made(proto, rules) if rules else {}
        if not made:
            return found
        found = True
        nodes = enumerate(proto.graph.node)
        replace_nodes(proto.graph, [part for place, node in nodes for part in (made[place].nodes if place in made else [node])])
        proto.graph.initializer.extend(tensor for parts in made.values() for tensor in parts.tensors)


def _rule(node: onnx.NodeProto, everything: bool) -> Rule | None:
    if kept.settled(node):
        return None
    if node.domain == DOMAIN:
        return (RULES if everything else LAYERS).get(node.op_type)
    return _BESIDE.get(node.op_type) if everything and node.domain in ("", "ai.onnx") else None


def _known(proto: onnx.ModelProto) -> Known:
    inferred = onnx.shape_inference.infer_shapes(without_weights(proto), data_prop=True).graph
    values = [*inferred.input, *inferred.value_info, *inferred.output]
    shapes: dict[str, list[Size]] = {}
    for value in values:
        if value.type.tensor_type.HasField("shape"):
            shapes[value.name] = [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]
    dtypes = {value.name: value.type.tensor_type.elem_type for value in values if value.type.tensor_type.elem_type}
    tensors = constants(proto.graph)
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 18)
    return Known(shapes, dtypes, tensors, opset, Names(proto.graph))


def _made(proto: onnx.ModelProto, rules: Mapping[int, Rule]) -> dict[int, Parts]:
    """By the node's place, what stands for it."""
    known = _known(proto)
    found = {place: _parts(proto.graph.node[place], rule, known) for place, rule in rules.items()}
    return {place: parts for place, parts in found.items() if parts is not None}


def _parts(node: onnx.NodeProto, rule: Rule, known: Known) -> Parts | None:
    parts = Parts(node, known)
    try:
        parts.finish(rule(parts))
    except CannotError as error:
        kept.note(node, str(error))
        return None
    return parts
