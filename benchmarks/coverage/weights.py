"""What weights a model has, counted from outside sparsecc, and how many of them a report speaks of.

A weight is a parameter or initializer with two axes or more that a product (of matrices, a convolution, a recurrent layer) reads as its
weight, directly or computed from parameters alone. Embeddings, biases, positions and tokens that are added or looked up are none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import onnx
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Which arguments may be the weight, by aten's name; the last known one is.
_TORCH = {
    **dict.fromkeys(("mm", "bmm", "mv", "matmul", "_grouped_mm"), (0, 1)),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), (1, 2)),
    **dict.fromkeys(("linear", "convolution", "_convolution", "conv1d", "conv2d", "conv3d"), (1,)),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "mkldnn_convolution"), (1,)),
}
_RECURRENT = ("lstm", "gru", "rnn")
_ONNX = {
    **dict.fromkeys(("Conv", "ConvTranspose", "ConvInteger", "DeformConv", "FusedConv", "NhwcConv"), (1,)),
    **dict.fromkeys(("Gemm", "MatMul", "MatMulInteger", "FusedMatMul", "FusedGemm"), (0, 1)),
    **dict.fromkeys(("DynamicQuantizeMatMul", "MatMulIntegerToFloat"), (0, 1)),
    **dict.fromkeys(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"), (1, 2)),
    **dict.fromkeys(("Attention", "QAttention", "MatMulNBits"), (1,)),
    "QLinearConv": (3,),
    "QLinearMatMul": (0, 3),
}


def of_module(module: torch.nn.Module, run: Any) -> dict[str, int]:
    """Weights by name → how many numbers.  run: calls the module."""
    watch = _Watch(module)
    with torch.no_grad(), watch:
        run()
    return {name: p.numel() for name, p in module.named_parameters() if p.ndim >= 2 and name in watch.read}


class _Watch(TorchDispatchMode):
    """Follows what is computed from parameters alone, until a product reads it.  read: names of the parameters that products read."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.read: set[str] = set()
        self._kept: list[torch.Tensor] = []  # so that no address is used twice
        self._known: dict[int, frozenset[str]] = {_address(buffer): frozenset() for buffer in module.buffers()}
        self._known |= {_address(parameter): frozenset({name}) for name, parameter in module.named_parameters()}
        self._known.pop(0, None)  # where no memory is

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if name in _TORCH:
            self._product([args[place] for place in _TORCH[name]])
        elif any(word in name for word in _RECURRENT):
            self.read.update(*(self._names(tensor) or () for tensor in tensors))
        else:
            self._follow(name, tensors, [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)])
        return result

    def _names(self, tensor: torch.Tensor) -> frozenset[str] | None:
        return self._known.get(_address(tensor))

    def _product(self, operands: Sequence[torch.Tensor]) -> None:
        known = [names for operand in operands if operand.ndim >= 2 and (names := self._names(operand)) is not None]
        self.read.update(*known[-1:])

    def _follow(self, name: str, tensors: Sequence[torch.Tensor], results: Sequence[torch.Tensor]) -> None:
        # experts are picked by data: what is picked is a weight still
        read = tensors[:1] if name == "index" else tensors
        sources = [self._names(tensor) for tensor in read]
        for tensor in results:
            if None in sources:
                if _address(tensor) not in {_address(t) for t in read}:
                    continue
                if name.endswith("_"):  # something else was written into it
                    self._known.pop(_address(tensor), None)
                continue
            self._known[_address(tensor)] = frozenset().union(*(s for s in sources if s))
            self._kept.append(tensor)


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def of_onnx(model: onnx.ModelProto) -> dict[str, int]:
    """Weights by name → how many numbers."""
    read: dict[str, int] = {}
    _walk(model.graph, {}, read, "")
    return read


def _walk(graph: onnx.GraphProto, outer: Mapping[str, Mapping[str, int]], read: dict[str, int], place: str) -> None:
    """outer: values that are constant, by name → the tensors that they are made from, by name → how many numbers."""
    known = dict(outer)
    for tensor in graph.initializer:
        known[tensor.name] = _sized(place + tensor.name, tensor.dims)
    for tensor in graph.sparse_initializer:
        known[tensor.values.name] = _sized(place + tensor.values.name, tensor.dims)
    for number, node in enumerate(graph.node):
        for branch, inner in enumerate(_graphs(node)):
            _walk(inner, known | _carried(node, inner, known), read, f"{place}{number}/{branch}/")
        if node.op_type == "Constant":
            known[node.output[0]] = next((_sized(place + node.output[0], a.t.dims) for a in node.attribute if a.name == "value"), {})
        elif node.op_type in _ONNX:
            places = [place for place in _ONNX[node.op_type] if place < len(node.input)]
            operands = [known[node.input[place]] for place in places if node.input[place] in known]
            recurrent = node.op_type in ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")
            for operand in operands if recurrent else operands[-1:]:
                read.update(operand)
        elif node.op_type == "Einsum":
            for name in node.input:
                read.update(known.get(name, {}))
        elif all(name in known for name in node.input if name) and not any(_graphs(node)):
            merged = {source: count for name in node.input if name for source, count in known[name].items()}
            known.update(dict.fromkeys(node.output, merged))


def _carried(node: onnx.NodeProto, body: onnx.GraphProto, known: Mapping[str, Mapping[str, int]]) -> dict[str, Mapping[str, int]]:
    """What a loop hands to its body by another name: TensorFlow's converter passes a recurrent layer's weights so."""
    if node.op_type not in ("Loop", "Scan"):
        return {}
    ahead = 2 if node.op_type == "Loop" else 0  # count and condition, of which the body has its own
    pairs = zip(node.input[ahead:], body.input[ahead:], strict=False)
    return {inside.name: known[outside] for outside, inside in pairs if outside in known}


def _sized(name: str, dims: Sequence[int]) -> dict[str, int]:
    """Vectors and scalars (scales, zero points, shapes) are no weights."""
    count = 1
    for size in dims:
        count *= size
    return {name: count} if len(dims) >= 2 and count > 1 else {}


def _graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def covered(weights: Iterable[int], rows: Iterable[int]) -> int:
    """How many numbers of the weights a report has rows for; both by their sizes, since names differ between hosts.

    A weight may be one row, or several that stand together (q, k and v of one tensor), or several weights one row.
    """
    rows_left = Counter(rows)
    found, open_weights = 0, []
    for size in weights:
        if rows_left[size]:
            rows_left[size] -= 1
            found += size
        else:
            open_weights.append(size)
    pieces = [size for size, count in rows_left.items() for _ in range(count)]
    for size in list(open_weights):
        if taken := _run(pieces, size):
            open_weights.remove(size)
            found += size
            for piece in taken:
                pieces.remove(piece)
    for size in list(pieces):
        if taken := _run(open_weights, size):
            found += size
            for weight in taken:
                open_weights.remove(weight)
    return found


def _run(sizes: Sequence[int], whole: int) -> list[int]:
    """The first sizes standing together that add up to the whole, more than one of them; empty where none do."""
    for start in range(len(sizes)):
        total = 0
        for end in range(start, len(sizes)):
            total += sizes[end]
            if total >= whole:
                break
        if total == whole and end > start:
            return list(sizes[start : end + 1])
    return []
