"""Attention in ONNX: the Attention operator of opset 23, the MatMul-Softmax-MatMul that everything else writes, and our own operator."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import onnx_ir as ir
import torch
from torch import Tensor

from sparsecc.attention.base import BlockMap
from sparsecc.attention.rounding import Precision
from sparsecc.graph.onnx.fold import constant, only_use
from sparsecc.graph.onnx.masks import is_causal
from sparsecc.graph.onnx.optional import require
from sparsecc.graph.onnx.sparse import block_map, initializer, is_masked, make_block_attention, precision_of
from sparsecc.ops.block_attention.onnx import is_block_attention
from sparsecc.ops.block_attention.torch import BlockAttention


@dataclass(frozen=True)
class Tap:
    """Where q, k or v is found. transposed: as [batch, heads, head_dim, tokens].  heads: as [batch, tokens, heads · head_dim], when set."""

    value: ir.Value
    transposed: bool = False
    heads: int = 0

    def shaped(self, tensor: Tensor) -> Tensor:
        """[batch, heads, tokens, head_dim]"""
        if self.heads:
            return tensor.unflatten(2, (self.heads, -1)).transpose(1, 2)
        return tensor.transpose(2, 3) if self.transposed else tensor

    def extent(self, axis: int) -> int | None:
        """Size along an axis of the shaped tensor, None when the model leaves it open."""
        shape = self.value.shape
        if shape is None:
            return None
        if self.heads:
            width = shape[2]
            return self.heads if axis == 1 else width // self.heads if axis == 3 and isinstance(width, int) else None
        size = shape[{2: 3, 3: 2}.get(axis, axis) if self.transposed else axis]
        return size if isinstance(size, int) else None


@dataclass(frozen=True)
class AttentionNodes:
    """nodes: the operators that are the attention, whose last computes `output`.  block_map, precision: of our own operator."""

    q: Tap
    k: Tap
    v: Tap
    nodes: tuple[ir.Node, ...]
    scale: float
    causal: bool
    has_mask: bool
    heads: int
    kv_heads: int
    head_dim: int
    mask: ir.Value | None = None  # where it is no more than a sum with the scores, or hides keys of the Attention operator
    block_map: BlockMap | None = None
    precision: Precision = "float32"

    @property
    def bound(self) -> str | None:
        """Why nothing can take the nodes' place, None when it can."""
        if any(len(tap.value.shape or ()) != (3 if tap.heads else 4) for tap in (self.q, self.k, self.v)):
            return "its v has no four dimensions"
        if self.v.extent(3) != self.head_dim:
            return f"v has {self.v.extent(3) or 'an unknown number of'} channels for each head, q has {self.head_dim}"
        if self.has_mask and (self.mask is None or self.mask.shape is None or self.mask.dtype is None):
            return "its mask is more than a sum with its scores"
        others = [value for value in self.nodes[-1].outputs[1:] if value.uses() or value.is_graph_output()]
        return "its keys or scores are outputs, too" if others else None

    @property
    def inputs(self) -> tuple[ir.Value, ...]:
        return (self.q.value, self.k.value, self.v.value)

    @property
    def output(self) -> ir.Value:
        return self.nodes[-1].outputs[0]


def replacement(found: AttentionNodes, op: BlockAttention, site: str, opset: int) -> list[ir.Node]:
    """The nodes for `op`, which read what `found` read and end in a value of the shape of its output; not yet in a graph."""
    nodes: list[ir.Node] = []
    inputs = [_laid_out(tap, nodes) for tap in (found.q, found.k, found.v)]
    if found.mask is not None:
        if op.map.orders is not None:
            raise ValueError(f"attention '{site}' has a mask of tokens in the model's order, the map has others")
        inputs.append(_added(found.mask, nodes, site))
    node = make_block_attention(op, site, inputs, opset)
    node.name = found.nodes[-1].name
    nodes.append(node)
    if found.q.heads:
        turned = _then(nodes, "Transpose", [node.outputs[0]], perm=[0, 2, 1, 3])
        _then(nodes, "Reshape", [turned, initializer(torch.tensor([0, 0, -1]), f"{site}.joined")])
    return nodes


def _added(mask: ir.Value, nodes: list[ir.Node], site: str) -> ir.Value:
    """A mask as what is added to the scores, by a node that is appended where it says which keys are seen."""
    if mask.dtype is not ir.DataType.BOOL:
        return mask
    numbers = (initializer(torch.tensor(number), f"{site}.{name}") for number, name in ((0.0, "seen"), (-math.inf, "hidden")))
    added = _then(nodes, "Where", [mask, *numbers])
    added.type, added.shape = ir.TensorType(ir.DataType.FLOAT), mask.shape
    return added


def _laid_out(tap: Tap, nodes: list[ir.Node]) -> ir.Value:
    """The tapped value as [batch, heads, tokens, head_dim], by nodes that are appended where it is laid out otherwise."""
    value = tap.value
    if tap.heads:
        value = _then(nodes, "Reshape", [value, initializer(torch.tensor([0, 0, tap.heads, -1]), f"{value.name}.split")])
        value = _then(nodes, "Transpose", [value], perm=[0, 2, 1, 3])
    elif tap.transposed:
        value = _then(nodes, "Transpose", [value], perm=[0, 1, 3, 2])
    if value is not tap.value:
        assert tap.value.shape is not None
        batch, tokens = tap.value.shape[0], tap.value.shape[{True: 1, False: 3}[bool(tap.heads)]]
        value.type, value.shape = tap.value.type, ir.Shape([batch, tap.extent(1), tokens, tap.extent(3)])
    return value


def _then(nodes: list[ir.Node], op_type: str, inputs: list[ir.Value], **attributes: list[int]) -> ir.Value:
    nodes.append(ir.node(op_type, inputs, attributes, num_outputs=1))
    return nodes[-1].outputs[0]


@dataclass
class _Scores:
    """What leads from q and k to the softmax, walked backwards."""

    product: ir.Node | None = None
    scale: float = 1.0
    masks: list[ir.Value] = field(default_factory=list)
    added: list[ir.Value] = field(default_factory=list)  # masks that nothing scales after they were added
    nodes: list[ir.Node] = field(default_factory=list)


def attention_at(node: ir.Node) -> AttentionNodes | None:
    """The attention whose softmax (or whole operator) is `node`, or None."""
    if node.op_type == "Attention" and node.domain == "":
        return _operator(node)
    if is_block_attention(node):
        return _blocked(node)
    return _decomposed(node) if node.op_type == "Softmax" and node.domain == "" else None


def _blocked(node: ir.Node) -> AttentionNodes | None:
    q, k, v = (Tap(value) for value in node.inputs[:3] if value is not None)
    stored, mask = block_map(node), node.inputs[3] if is_masked(node) else None
    found = _assembled((q, k, v), (node,), node.attributes.get_float("scale", 0.0), stored.causal, mask is not None, mask)
    return replace(found, block_map=stored, precision=precision_of(node)) if found else None


def _operator(node: ir.Node) -> AttentionNodes | None:
    inputs = [*node.inputs, *[None] * 6][:6]
    q, k, v, mask, past_key, past_value = inputs
    if q is None or k is None or v is None or past_key is not None or past_value is not None or node.attributes.get_float("softcap", 0.0):
        return None
    heads, kv_heads = node.attributes.get_int("q_num_heads", 0), node.attributes.get_int("kv_num_heads", 0)
    taps = (Tap(q, heads=heads), Tap(k, heads=kv_heads), Tap(v, heads=kv_heads))
    causal = bool(node.attributes.get_int("is_causal", 0))
    return _assembled(taps, (node,), node.attributes.get_float("scale", 0.0) or None, causal, mask is not None, None if causal else mask)


def _decomposed(softmax: ir.Node) -> AttentionNodes | None:
    rank = len(softmax.inputs[0].shape or ()) if softmax.inputs[0] is not None else 0
    if softmax.attributes.get_int("axis", -1) not in (-1, rank - 1):
        return None
    after = _weighted_sum(softmax)
    scores = _Scores()
    if after is None or not _walk(softmax.inputs[0], scores, depth=0) or scores.product is None:
        return None
    left, right = scores.product.inputs[0], scores.product.inputs[1]
    q = Tap(_unscaled(left, scores)) if left is not None else None
    k = _key(right, scores)
    v = after[-1].inputs[1]
    if q is None or k is None or v is None or constant(v) is not None or any(len(tap.value.shape or ()) != 4 for tap in (q, k)):
        return None
    masks = scores.masks
    causal = len(masks) == 1 and is_causal(masks[0])
    nodes = (*reversed(scores.nodes), softmax, *after)
    mask = scores.added[0] if len(masks) == len(scores.added) == 1 and not causal else None
    return _assembled((q, k, Tap(v)), nodes, scores.scale, causal, bool(masks) and not causal, mask)


def _assembled(
    taps: tuple[Tap, Tap, Tap], nodes: tuple[ir.Node, ...], scale: float | None, causal: bool, has_mask: bool, mask: ir.Value | None
) -> AttentionNodes | None:
    q, k, v = taps
    heads, kv_heads = q.extent(1), k.extent(1) or v.extent(1)
    head_dim = q.extent(3) or k.extent(3)
    if not heads or not head_dim:
        return None
    return AttentionNodes(q, k, v, nodes, scale or 1 / math.sqrt(head_dim), causal, has_mask, heads, kv_heads or heads, head_dim, mask)


def _weighted_sum(softmax: ir.Node) -> tuple[ir.Node, ...] | None:
    """The nodes from the softmax's result to the product with v, that product last."""
    nodes: list[ir.Node] = []
    value = softmax.outputs[0]
    for _ in range(4):
        cleaned = _nan_to_zero(value)
        nodes += cleaned
        if cleaned:
            value = cleaned[-1].outputs[0]
        consumer = only_use(value)
        if consumer is None:
            return None
        nodes.append(consumer)
        if consumer.op_type == "MatMul":
            return tuple(nodes) if consumer.inputs[0] is value else None
        if consumer.op_type not in ("Cast", "Identity", "Dropout"):
            return None
        value = consumer.outputs[0]
    return None


def _nan_to_zero(value: ir.Value) -> list[ir.Node]:
    """[IsNaN, Where] of torch's export, which makes rows without any key zero; [] when the value is used otherwise."""
    by_type = {use.node.op_type: use.node for use in value.uses()}
    if set(by_type) != {"IsNaN", "Where"} or len(value.uses()) != 2:
        return []
    where, test = by_type["Where"], by_type["IsNaN"]
    return [test, where] if where.inputs[0] is test.outputs[0] and where.inputs[2] is value else []


def _walk(value: ir.Value | None, scores: _Scores, depth: int) -> bool:
    """Backwards from the softmax to the product of q and k: past masks and constant factors. False when that is not what is there."""
    node = value.producer() if value is not None else None
    if node is None or depth > 6 or only_use(require(value)) is None:
        return False
    if node.op_type == "MatMul":
        scores.product = node
        scores.nodes.append(node)
        return constant(node.inputs[0]) is None and constant(node.inputs[1]) is None
    if node.op_type in ("Mul", "Div"):
        taken = _factor(node)
        if taken is None:
            return False
        factor, through = taken
        scores.scale *= factor
        scores.nodes.append(node)
        return _walk(through, scores, depth + 1)
    if node.op_type in ("Cast", "Identity"):
        scores.nodes.append(node)
        return _walk(node.inputs[0], scores, depth + 1)
    if node.op_type in ("Add", "Where"):
        return _past_mask(node, scores, depth)
    return False


def _past_mask(node: ir.Node, scores: _Scores, depth: int) -> bool:
    """Add(scores, mask) in either order; Where(keep, scores, −inf) and Where(drop, −inf, scores)."""
    operands, scores_scale = list(node.inputs) if node.op_type == "Add" else list(node.inputs[1:]), scores.scale
    for index, operand in enumerate(operands):
        attempt = _Scores(scale=scores.scale, masks=[*scores.masks], nodes=[*scores.nodes, node])
        mask = operands[1 - index] if node.op_type == "Add" else node.inputs[0]
        if mask is not None and _walk(operand, attempt, depth + 1):
            scores.product, scores.scale, scores.nodes = attempt.product, attempt.scale, attempt.nodes
            scores.added = [*attempt.added, *([mask] if node.op_type == "Add" and scores_scale == 1 else [])]
            scores.masks = [*attempt.masks, mask]
            return True
    return False


def _unscaled(value: ir.Value, scores: _Scores) -> ir.Value:
    """Past constant factors on q or k, which belong to the scale."""
    while (node := value.producer()) is not None and node.op_type in ("Mul", "Div") and only_use(value) is not None:
        taken = _factor(node)
        if taken is None:
            break
        factor, value = taken
        scores.scale *= factor
        scores.nodes.append(node)
    return value


def _key(value: ir.Value | None, scores: _Scores) -> Tap | None:
    """k before it was transposed, where a plain swap of its last two axes did that."""
    if value is None:
        return None
    value = _unscaled(value, scores)
    node = value.producer()
    if node is not None and node.op_type == "Transpose" and tuple(node.attributes.get_ints("perm", [])) == (0, 1, 3, 2) and only_use(value):
        source = node.inputs[0]
        assert source is not None
        scores.nodes.append(node)
        return Tap(_unscaled(source, scores))
    return Tap(value, transposed=True)


def _factor(node: ir.Node) -> tuple[float, ir.Value] | None:
    """(factor, other operand) of a multiplication or division by one constant number."""
    left, right = node.inputs[0], node.inputs[1]
    if left is None or right is None:
        return None
    number = constant(right)
    if number is not None and number.size == 1:
        factor = float(number.reshape(-1)[0])
        return (factor if node.op_type == "Mul" else 1 / factor), left
    number = constant(left)
    if node.op_type == "Mul" and number is not None and number.size == 1:
        return float(number.reshape(-1)[0]), right
    return None
