"""What a layer is called: the module path that its exporter left in the file, in whichever place that exporter left it."""

from __future__ import annotations

import ast
import re

import onnx_ir as ir

SITE_KEY = "ai.sparsecc.site"  # node metadata: the name that a site was given when its model was first read
_SCOPES_KEY = "pkg.torch.onnx.name_scopes"  # of torch.onnx.export(dynamo=True): "['', 'encoder', 'encoder.layer.0', 'linear']"
_WEIGHT_SUFFIXES = (".weight", ".w_0")
_WEIGHTED = ("MatMul", "Gemm", "Conv")
_FOLDED_AWAY = ("BatchNormalization", "Add", "Mul", "Sub", "Div", "Identity", "Dropout", "Cast", "Pad")


def hints(model: ir.Model) -> dict[str, str]:
    """A name for the layer that computes each value, by the value's name. Simplification keeps values, and renames or merges nodes.

    What may be folded into a layer (its batch norm, a constant added) carries the layer's name on.
    """
    found: dict[str, str] = {}
    for node in model.graph:
        name = _name(node)
        if name is None and node.op_type in _FOLDED_AWAY:
            before = [found.get(value.name or "") for value in node.inputs if value is not None and not _is_constant(value)]
            name = before[0] if len(before) == 1 else None
        if name is not None:
            found.update({value.name: name for value in node.outputs if value.name})
    return found


def store(model: ir.Model, found: dict[str, str]) -> None:
    """Write the names into the nodes that compute the values, where sites are read from and where a saved file keeps them."""
    for node in model.graph:
        name = found.get(node.outputs[0].name or "")
        if name and _may_be_site(node) and "site" not in node.attributes:
            node.metadata_props[SITE_KEY] = name


def given(node: ir.Node) -> str:
    """The stored name of a site's node, or the next best thing."""
    return _packed_as(node) or node.metadata_props.get(SITE_KEY) or node.name or node.outputs[0].name or node.op_type


def of_layer(node: ir.Node) -> str | None:
    """What its exporter says that a layer is called."""
    return _name(node)


def _is_constant(value: ir.Value) -> bool:
    producer = value.producer()
    return value.is_initializer() if producer is None else producer.op_type == "Constant"


def _may_be_site(node: ir.Node) -> bool:
    return node.op_type in (*_WEIGHTED, "Attention")


def _name(node: ir.Node) -> str | None:
    if _packed_as(node):
        return _packed_as(node)
    if not _may_be_site(node):
        return None
    if SITE_KEY in node.metadata_props:
        return node.metadata_props[SITE_KEY]
    return _from_weight(node) or _from_scopes(node) or _from_path(node) or node.name or node.outputs[0].name


def _packed_as(node: ir.Node) -> str | None:
    """The site that a node of ai.sparsecc was made for."""
    site = node.attributes.get("site")
    return site.value if site is not None and isinstance(site.value, str) else None


def _from_weight(node: ir.Node) -> str | None:
    """encoder.layer.0.query from encoder.layer.0.query.weight, unless other layers use that weight too."""
    weight = node.inputs[1] if node.op_type in _WEIGHTED and len(node.inputs) > 1 else None
    if weight is None or not weight.name or len(weight.uses()) != 1:
        return None
    module = _from_scopes(node)
    if module and weight.name.startswith(f"{module}."):  # also a parameter of another name, such as in_proj_weight
        return weight.name.removesuffix(".weight")
    return next((weight.name.removesuffix(suffix) for suffix in _WEIGHT_SUFFIXES if weight.name.endswith(suffix)), None)


def _from_scopes(node: ir.Node) -> str | None:
    try:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES_KEY, "[]"))
    except (ValueError, SyntaxError):
        return None
    modules = [scope for scope in scopes[:-1] if isinstance(scope, str)] if isinstance(scopes, list) else []
    return modules[-1] if modules and modules[-1] else None


def _from_path(node: ir.Node) -> str | None:
    """encoder.layer.0.query from /encoder/layer.0/query/MatMul_1, as torch's older exporter names nodes."""
    path = re.fullmatch(rf"/(.+)/{node.op_type}(_\d+)?", node.name or "")
    return path[1].replace("/", ".") if path else None
