"""The weights of an aten graph that belong to no site, by what reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from sparsecc.graph.fx.fold import unfolded_name
from sparsecc.graph.fx.layers import Layer, OperatorLayer, arguments, aten, match, stored
from sparsecc.graph.fx.sites import SITE
from sparsecc.graph.sites import Unseen, is_matrix, unique
from sparsecc.graph.unseen import REASONS, narrow, reason_of

_VIEWS = frozenset(
    {
        aten.view.default,
        aten.reshape.default,
        aten.permute.default,
        aten.transpose.int,
        aten.t.default,
        aten.unsqueeze.default,
        aten.squeeze.dim,
        aten.expand.default,
        aten.slice.Tensor,
        aten.select.int,
        aten.contiguous.default,
    }
)
_KINDS = {
    "embedding": "Embedding",
    "embedding_bag": "Embedding",
    "index_select": "Embedding",
    "linear": "Linear",
    "addmm": "Linear",
    "mm": "Linear",
    "bmm": "BatchedMatMul",
    "baddbmm": "BatchedMatMul",
    "_grouped_mm": "BatchedMatMul",
    "grouped_mm_fallback": "BatchedMatMul",  # of transformers
    "einsum": "Einsum",
    "lstm": "LSTM",
    "gru": "GRU",
    "rnn_tanh": "RNN",
    "rnn_relu": "RNN",
}
_CHOOSE = ("index", "index_select", "embedding")  # one matrix of several for each row
_BYTES = (torch.int8, torch.uint8)  # what weights of fewer bits lie in


def find(module: GraphModule) -> list[Unseen]:
    """In execution order; a tensor under several names once."""
    seen = {id(stored(read)) for node in module.graph.nodes for read in _of_site(node)}
    fixed = _independent(module)
    names: dict[str, None] = dict.fromkeys(str(node.meta.get(SITE)) for node in module.graph.nodes if SITE in node.meta)
    found = []
    for read in module.graph.find_nodes(op="get_attr"):
        tensor = stored(read)
        if tensor is None or id(tensor) in seen or not is_matrix(tensor.shape):
            continue
        reader = next(_readers(read, fixed), None)
        kind = None if reader is None else _kind(reader, tensor)
        if kind is not None and _is_weight(tensor, kind):
            seen.add(id(tensor))
            found.append(_unseen(unique(unfolded_name(str(read.target)).removesuffix(".weight"), names), kind, tensor))
    return found


def _of_site(node: Node) -> tuple[Node, ...]:
    """The stored tensors that a layer has for its weight."""
    layer = match(node)
    if isinstance(layer, OperatorLayer):
        return layer.tensors
    return (layer.weight,) if isinstance(layer, Layer) else ()


def _independent(module: GraphModule) -> set[Node]:
    """Nodes that no input reaches."""
    found: set[Node] = set()
    for node in module.graph.nodes:
        sources = node.all_input_nodes
        if node.op == "get_attr" or (node.op == "call_function" and sources and all(source in found for source in sources)):
            found.add(node)
    return found


def _readers(node: Node, independent: set[Node]) -> Iterator[Node]:
    """What brings a stored tensor together with the model's inputs, be it through a scale, a cast or a view."""
    for user in node.users:
        if user in independent or (user.target in _VIEWS and user.args[0] is node):
            yield from _readers(user, independent)
        elif user.op == "call_function":
            yield user


def _kind(reader: Node, tensor: Tensor) -> str:
    name = str(reader.target).removeprefix("aten.").removeprefix("transformers.").partition(".")[0]
    if name.startswith("conv") and not name.startswith("conv_tbc"):
        return _convolution(reader, name)
    if name in _CHOOSE and tensor.dim() == 3:
        return "BatchedMatMul"
    if name == "matmul":
        return "Linear" if tensor.dim() == 2 else "BatchedMatMul"
    return _KINDS.get(name, name)


def _convolution(reader: Node, name: str) -> str:
    """Conv1d and the like."""
    given: dict[str, Any] = arguments(reader)
    rank = given["weight"].meta["val"].dim() - 2
    return f"ConvTranspose{rank}d" if given.get("transposed") or "transpose" in name else f"Conv{rank}d"


def _is_weight(tensor: Tensor, kind: str) -> bool:
    """Constants of a model (masks, positions, scales) are none, unless a layer multiplies by them."""
    multiplied = kind in REASONS and kind != "Embedding"
    return isinstance(tensor, nn.Parameter) or (multiplied and (tensor.is_floating_point() or tensor.dtype in _BYTES))


def _unseen(name: str, kind: str, tensor: Tensor) -> Unseen:
    dtype = str(tensor.dtype).removeprefix("torch.")
    reason = reason_of(kind) if tensor.is_floating_point() else narrow(dtype)
    zeros = 1 - int(tensor.count_nonzero()) / tensor.numel()
    return Unseen(name=name, kind=kind, shape=tuple(tensor.shape), dtype=dtype, nbytes=tensor.nbytes, sparsity=zeros, reason=reason)
