"""Reading sites off an aten graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from sparsecc import ops
from sparsecc.errors import ModelError, RecipeError
from sparsecc.graph.fx.activations import activation_after
from sparsecc.graph.fx.fold import unfolded_name
from sparsecc.graph.fx.layers import Layer, OperatorLayer, arguments, aten, match, stored
from sparsecc.graph.sites import Attention, Conv1d, Conv2d, Linear, Mlp, Site, WeightSite, unique
from sparsecc.ops.block_attention.torch import restore
from sparsecc.ops.dynamic_block_attention.torch import map_of

_BLOCK_ATTENTION = torch.ops.sparsecc.block_attention.default
_DYNAMIC_ATTENTION = torch.ops.sparsecc.dynamic_block_attention.default
_ATTENTION = (aten.scaled_dot_product_attention.default, _BLOCK_ATTENTION, _DYNAMIC_ATTENTION)
SITE = "sparsecc_site"  # node.meta: the name a site was given when its model was traced, kept through every rewrite


def name_sites(module: GraphModule) -> None:
    """Give every layer and attention its name, once: its module path, made unique in execution order."""
    taken: dict[str, None] = {}
    for node in _site_nodes(module):
        taken[node.meta.setdefault(SITE, _unique(_path(node), taken))] = None


def site_names(module: GraphModule) -> list[str]:
    """The names in execution order, for a file to keep."""
    return [node.meta[SITE] for node in _site_nodes(module)]


def rename_sites(module: GraphModule, names: list[str]) -> None:
    """Put back what `site_names` gave. Raises ValueError when the graph has another number of sites."""
    for node, name in zip(list(_site_nodes(module)), names, strict=True):
        node.meta[SITE] = name


def inputs_of(node: Node) -> tuple[Node, ...]:
    """What enters a site: (x,) of a layer, (q, k, v) of an attention."""
    layer = match(node)
    return tuple(node.args[:3]) if layer is None else (layer.x,)  # type: ignore[arg-type]


def mask_of(node: Node) -> Node | None:
    """The mask of an attention."""
    given = arguments(node)
    return given.get("mask" if node.target is _BLOCK_ATTENTION else "attn_mask")


def is_site(node: Node) -> bool:
    return node.op == "call_function" and (node.target in _ATTENTION or match(node) is not None)


def find_sites(module: GraphModule) -> list[Site]:
    """All sites in execution order; an Mlp comes after its second layer."""
    readers = _readers(module)
    neurons: dict[Node, Linear] = {}  # what a layer's activation computes → that layer
    names: dict[str, None] = dict.fromkeys(site_names(module))
    sites: list[Site] = []
    for node in _site_nodes(module):
        layer = match(node)
        if layer is None:
            sites.append(_attention(node))
            continue
        after = activation_after(node)
        site = _weight_site(layer, readers, after[0] if after else None)
        sites.append(site)
        if not isinstance(site, Linear):
            continue
        if layer.x in neurons and len(layer.x.users) == 1:
            sites.append(_mlp(neurons[layer.x], site, names))
        if after:
            neurons[after[1]] = site
    return sites


def node_named(module: GraphModule, name: str) -> Node | None:
    """The node of the layer or attention called so."""
    return next((node for node in module.graph.nodes if node.meta.get(SITE) == name and is_site(node)), None)


def site_named(module: GraphModule, name: str) -> Site | None:
    """The site called so, as it is."""
    node = node_named(module, name)
    if node is None:  # an Mlp has no node of its own
        return next((site for site in find_sites(module) if site.name == name), None)
    layer, after = match(node), activation_after(node)
    return _attention(node) if layer is None else _weight_site(layer, _readers(module), after[0] if after else None)


def _site_nodes(module: GraphModule) -> Iterator[Node]:
    return (node for node in module.graph.nodes if is_site(node))


def _path(node: Node) -> str:
    """The module path of a site. The weight's name says it, unless modules share the weight; the module stack says the rest."""
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    module = stack[-1].split("@")[0] if stack and isinstance(stack[-1], str) else ""
    layer = match(node)
    if layer is None and node.target in (_BLOCK_ATTENTION, _DYNAMIC_ATTENTION):
        return str(arguments(node)["name"])
    if layer is None:
        return module or "attention"
    if isinstance(layer, OperatorLayer):
        return str(node.args[-1])
    weight = unfolded_name(str(layer.weight.target))
    in_module = not module or weight.startswith(f"{module}.")
    return weight.removesuffix(".weight") if in_module else module


def _unique(name: str, taken: dict[str, None]) -> str:
    tries = (name, *(f"{name}_{i}" for i in range(1, len(taken) + 1)))
    return next(candidate for candidate in tries if candidate not in taken)


def _readers(module: GraphModule) -> dict[int, int]:
    """How many nodes read each stored tensor, by identity: tied weights are one tensor under several names."""
    readers: dict[int, int] = {}
    for node in module.graph.find_nodes(op="get_attr"):
        tensor = stored(node)
        if tensor is not None:
            readers[id(tensor)] = readers.get(id(tensor), 0) + len(node.users)
    return readers


def _weight_site(layer: Layer | OperatorLayer, readers: dict[int, int], activation: str | None) -> WeightSite:
    bias = stored(layer.bias)
    common: dict[str, Any] = {
        "name": layer.node.meta[SITE],
        "handle": layer.node.name,
        "bias": None if bias is None else bias.detach(),
        "activation": activation,
    }
    common |= _operator_weight(layer) if isinstance(layer, OperatorLayer) else _dense_weight(layer, readers)
    if layer.geometry is None:
        return Linear(**common)
    g = layer.geometry
    dense = tuple(common["stored"].shape[2:]) if isinstance(layer, Layer) else ()
    kernel: Any = layer.kernel if isinstance(layer, OperatorLayer) else (*[1] * (2 - len(dense)), *dense)
    in_line = layer.in_line if isinstance(layer, OperatorLayer) else len(dense) == 1
    kind = Conv1d if in_line else Conv2d
    return kind(**common, kernel=kernel, stride=g.stride, padding=g.padding, dilation=g.dilation, groups=g.groups)


def _dense_weight(layer: Layer, readers: dict[int, int]) -> dict[str, Any]:
    tensor = stored(layer.weight)
    assert tensor is not None
    weight = tensor.detach().T if layer.transposed else tensor.detach()
    return {
        "stored": weight,
        "weight_name": str(layer.weight.target),
        "shared": readers[id(tensor)] > 1,
        "constant": not isinstance(tensor, nn.Parameter),
    }


def _operator_weight(layer: OperatorLayer) -> dict[str, Any]:
    tensors = [stored(node).detach() for node in layer.tensors]  # type: ignore[union-attr]
    try:
        weight = ops.layer(layer.operator).storage(layer.key).hold(layer.rows, layer.cols, tensors)
    except (RecipeError, ValueError, TypeError) as error:
        raise ModelError(f"layer '{layer.node.meta[SITE]}': no operator that this version of sparsecc writes ({error})") from None
    return {"stored": weight, "weight_name": str(layer.tensors[0].target)}


def _attention(node: Node) -> Attention:
    given = arguments(node)
    q, k, v = (source.meta["val"] for source in inputs_of(node))
    head_dim = int(q.shape[-1])
    common: dict[str, Any] = {
        "name": node.meta[SITE],
        "handle": node.name,
        "heads": int(q.shape[-3]) if q.dim() > 2 else 1,
        "kv_heads": int(k.shape[-3]) if k.dim() > 2 else 1,
        "head_dim": head_dim,
        "tokens": _fixed(q.shape[-2]),
        "kv_tokens": _fixed(k.shape[-2]),
    }
    if node.target is _BLOCK_ATTENTION:
        orders, keep = (None if given[name] is None else stored(given[name]) for name in ("orders", "keep"))
        assert keep is not None
        block_map = restore(orders, keep, *(given[name] for name in ("grid", "text_first", "block", "causal")))
        masked = given["mask"] is not None
        return Attention(
            **common, scale=given["scale"], causal=block_map.causal, has_mask=masked, block_map=block_map, precision=given["precision"]
        )
    if node.target is _DYNAMIC_ATTENTION:
        found = map_of(given, stored)
        return Attention(**common, scale=given["scale"], causal=found.causal, block_map=found)
    scale = given["scale"]
    return Attention(
        **common,
        scale=float(scale) if scale is not None else head_dim**-0.5,
        causal=bool(given["is_causal"]),
        has_mask=given["attn_mask"] is not None,
        bound=_bound(q, v, given["dropout_p"]),
    )


def _fixed(size: Any) -> int | None:
    return size if isinstance(size, int) else None


def _bound(q: Tensor, v: Tensor, dropout: float) -> str | None:
    if q.dim() != 4 or v.dim() != 4:
        return f"its q is {q.dim()}-D, [batch, heads, tokens, head_dim] is needed"
    if int(q.shape[-1]) != int(v.shape[-1]):
        return f"v has {int(v.shape[-1])} channels for each head, q has {int(q.shape[-1])}"
    return f"it drops {dropout:.0%} of its probabilities at random" if dropout else None


def _mlp(first: Linear, second: Linear, taken: dict[str, None]) -> Mlp:
    assert first.activation is not None
    return Mlp(name=unique(mlp_name(first, second), taken), handle=second.handle, first=first, second=second, activation=first.activation)


def mlp_name(first: Linear, second: Linear) -> str:
    """The module that holds both layers, and "mlp" where it is not called so: encoder.layer.0.mlp."""
    parts = []
    for a, b in zip(first.name.split("."), second.name.split("."), strict=False):
        if a != b:
            break
        parts.append(a)
    return ".".join(parts if parts and parts[-1] == "mlp" else [*parts, "mlp"])
