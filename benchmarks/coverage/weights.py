"""What weights a model has, counted from outside sparsecc, and how many of them a report speaks of.

A weight is a parameter or initializer with two axes or more that a product (of matrices, a convolution, a recurrent layer) reads as its
weight, directly or computed from parameters alone. Products of constants alone are computed ahead, and what only they read is none.
Embeddings, biases, positions and tokens that are added or looked up are none.
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
    """Weights by name → how many numbers.  run: calls the module on inputs made before; what is made in the call is a constant."""
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
        tensors = _tensors((args, kwargs))
        if name == "index" and tensors[0].ndim > 2:
            tensors = tensors[:1]  # experts are picked by data; what is picked is a weight still
        sources = [self._names(tensor) for tensor in tensors]
        product = name in _TORCH or any(word in name for word in _RECURRENT)
        if None not in sources:
            self._constant(_tensors(result), frozenset() if product else frozenset().union(*filter(None, sources)))
        elif name in _TORCH:
            self._product([args[place] for place in _TORCH[name]])
        elif product:
            self.read.update(*filter(None, sources))
        elif name.endswith("_"):  # what was constant has been written into
            self._known.pop(_address(tensors[0]), None)
        return result

    def _names(self, tensor: torch.Tensor) -> frozenset[str] | None:
        return self._known.get(_address(tensor))

    def _product(self, operands: Sequence[torch.Tensor]) -> None:
        known = [names for operand in operands if operand.ndim >= 2 and (names := self._names(operand)) is not None]
        self.read.update(*known[-1:])

    def _constant(self, results: Sequence[torch.Tensor], names: frozenset[str]) -> None:
        for tensor in results:
            self._known[_address(tensor)] = names
            self._kept.append(tensor)


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


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
        known |= _read(node, known, read, place)


def _read(node: onnx.NodeProto, known: Mapping[str, Mapping[str, int]], read: dict[str, int], place: str) -> dict[str, Mapping[str, int]]:
    """What a node gives that is constant; the weights that it reads are put into `read`."""
    given = [known.get(name) for name in node.input if name]
    constant = None not in given and not any(_graphs(node))
    product = node.op_type in _ONNX or node.op_type == "Einsum"
    if node.op_type == "Constant":
        return {node.output[0]: next((_sized(place + node.output[0], a.t.dims) for a in node.attribute if a.name == "value"), {})}
    if constant:
        return dict.fromkeys(node.output, {} if product else {name: count for sizes in given if sizes for name, count in sizes.items()})
    if product:
        places = _ONNX.get(node.op_type, range(len(node.input)))
        operands = [known[node.input[place]] for place in places if place < len(node.input) and node.input[place] in known]
        for operand in operands if "LSTM" in node.op_type or node.op_type in ("GRU", "RNN", "Einsum") else operands[-1:]:
            read.update(operand)
    return {}


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
