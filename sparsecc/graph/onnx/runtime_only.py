"""Operators that onnxruntime has in the standard's domain and onnx has not: out of the way of onnx's tools, which know nothing of them.

SimplifiedLayerNormalization(x, scale) is LayerNormalization without the mean, so that this stands for it where shapes are inferred.
"""

from __future__ import annotations

import onnx

from sparsecc.graph.onnx.valid import RUNTIME_OPERATORS, has_schema, nodes

_DOMAIN = "com.microsoft"  # where the tools leave operators alone
_NORM, _SIMPLIFIED = "LayerNormalization", "SimplifiedLayerNormalization"
_NORM_SINCE = 17
_MARK = 1000  # added to stash_type, so that no tool takes the two for the same


def hide(proto: onnx.ModelProto) -> None:
    """Into a domain of onnxruntime's, in place, whatever the standard does not have in this opset."""
    opset = _opset(proto)
    hidden = [n for n in nodes(proto) if n.domain == "" and n.op_type in RUNTIME_OPERATORS and not has_schema(n.op_type, "", opset)]
    for node in hidden:
        node.domain = _DOMAIN
    if hidden and _DOMAIN not in [imported.domain for imported in proto.opset_import]:
        proto.opset_import.append(onnx.helper.make_opsetid(_DOMAIN, 1))


def stand_in(proto: onnx.ModelProto) -> None:
    """After a conversion to an opset that may have more: what is standard now is that, and what has a double is that."""
    if _opset(proto) < _NORM_SINCE:
        return
    for node in nodes(proto):
        if node.domain != _DOMAIN or node.op_type not in RUNTIME_OPERATORS or len(node.output) > 1:
            continue
        node.domain = ""
        if node.op_type == _SIMPLIFIED:
            node.op_type = _NORM
            _stash_type(node).i += _MARK


def restore(proto: onnx.ModelProto) -> None:
    for node in nodes(proto):
        if node.op_type == _NORM and node.domain == "" and _stash_type(node).i >= _MARK:
            node.op_type = _SIMPLIFIED
            _stash_type(node).i -= _MARK
        elif node.domain == _DOMAIN and node.op_type in RUNTIME_OPERATORS:
            node.domain = ""


def _stash_type(node: onnx.NodeProto) -> onnx.AttributeProto:
    found = next((attribute for attribute in node.attribute if attribute.name == "stash_type"), None)
    if found is None:
        node.attribute.append(onnx.helper.make_attribute("stash_type", 1))
        found = node.attribute[-1]
    return found


def _opset(proto: onnx.ModelProto) -> int:
    return next(imported.version for imported in proto.opset_import if imported.domain == "")
