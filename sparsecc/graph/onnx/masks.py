"""Whether an attention mask only hides what comes later: a constant triangle, or one that is computed from the number of tokens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from sparsecc.graph.onnx.fold import constant

_HIDDEN = -1e4  # a mask value at or below this takes the key out: exporters write −inf, the smallest float, or −10000
_TOKENS = 5  # the size at which a computed mask is looked at
_DEEPEST = 8

_STEPS: dict[str, Callable[..., np.ndarray]] = {
    "Where": np.where,
    "Equal": np.equal,
    "Not": np.logical_not,
    "Mul": np.multiply,
    "Add": np.add,
    "Sub": np.subtract,
    "Greater": np.greater,
    "Less": np.less,
    "Identity": np.asarray,
}


def is_causal(mask: ir.Value) -> bool:
    """Whether a mask [..., tokens, tokens], added to the scores or true where seen, lets each token see itself and those before it."""
    array = constant(mask)
    return _is_triangle(array if array is not None else _evaluated(mask, 0))


def _is_triangle(mask: np.ndarray | None) -> bool:
    if mask is None or mask.ndim < 2 or mask.shape[-1] != mask.shape[-2] or mask.shape[-1] < 2 or mask.size != mask.shape[-1] ** 2:
        return False
    square = mask.reshape(mask.shape[-2:])
    visible = square if square.dtype == bool else square == 0
    hidden = ~square if square.dtype == bool else square <= _HIDDEN
    lower = np.tri(len(square), dtype=bool)
    return bool(np.array_equal(visible, lower) and np.array_equal(hidden, ~lower))


def _evaluated(value: ir.Value | None, depth: int) -> np.ndarray | None:
    """What a value computed from a Trilu and single numbers is for a few tokens; None for anything else."""
    node = value.producer() if value is not None else None
    if node is None:
        array = constant(value)
        return array.reshape(()) if array is not None and array.size == 1 else None
    if depth > _DEEPEST or node.domain != "":
        return None
    if node.op_type == "Trilu":
        return _triangle(node)
    if node.op_type in ("Unsqueeze", "Cast", "Expand"):
        source = _evaluated(node.inputs[0], depth + 1)
        as_bool = node.op_type == "Cast" and node.attributes.get_int("to", 0) == ir.DataType.BOOL
        return source.astype(bool) if source is not None and as_bool else source
    step = _STEPS.get(node.op_type)
    operands = [_evaluated(operand, depth + 1) for operand in node.inputs]
    return step(*operands) if step is not None and all(operand is not None for operand in operands) else None


def _triangle(node: ir.Node) -> np.ndarray | None:
    """Trilu of a matrix filled with one number, its size computed elsewhere."""
    diagonal = constant(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else np.int64(0)
    filler = node.inputs[0].producer() if node.inputs[0] is not None else None
    if filler is None or diagonal is None:
        return None
    if filler.op_type == "ConstantOfShape":
        tensor = filler.attributes.get_tensor("value", None)
        fill = tensor.numpy().reshape(()) if tensor is not None else np.float32(0)
    else:
        fill = _evaluated(filler.inputs[0], _DEEPEST) if filler.op_type == "Expand" else None
    if fill is None:
        return None
    cut = np.triu if node.attributes.get_int("upper", 1) else np.tril
    return cut(np.full((_TOKENS, _TOKENS), fill), int(np.asarray(diagonal).reshape(())))
