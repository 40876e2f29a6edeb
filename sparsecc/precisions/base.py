"""What a number format is to a layer: how its weight is rounded and stored, and what becomes of the inputs that it is multiplied with.

A precision works on a weight matrix W of shape [rows, cols] = [out, in] and knows no graph. A quantized layer computes

    y = round_inputs(x) · dequantize(values)ᵀ + bias

where both factors are numbers of the format times scales. Where inputs are rounded, too, scales do not depend on the input channel, so
that a kernel multiplies the numbers and scales the sums. Values are plain tensors of the format's own type, dense or in a sparse format;
of numbers in four bits two lie in a byte.

It says this twice: in torch (`dequantize`, `round_inputs`), plainly, and for ONNX files (`numbers`, `product`), in the operators that
runtimes are fast at. `tests/laws/test_precisions.py` holds the second against the first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, TypeVar

from sparsecc import registry
from sparsecc.errors import ModelError
from sparsecc.formats.base import Packed
from sparsecc.formats.primitives import numbers_in_bytes, torch_ops
from sparsecc.forms import Form

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from sparsecc.formats.base import Format
    from sparsecc.formats.primitives import Ops

VALUES = "values"
ROW = "row"
Group = int | Literal["row"]
Method = Literal["nearest", "gptq"]
T = TypeVar("T")


class Nodes(Protocol[T]):
    """Writes the body of a function of an ONNX file, at any opset from 16 on. T: a tensor in it."""

    def op(self, op_type: str, /, *inputs: T, **attributes: int | list[int] | str) -> T:
        """A standard operator with one output, such as `op("MatMul", x, weight)`."""
        ...

    def tensor(self, array: np.ndarray) -> T:
        """A constant."""
        ...

    def cast(self, x: T, dtype: str) -> T:
        """dtype: by numpy's name, or bfloat16."""
        ...

    def largest(self, x: T) -> T:
        """[..., 1]: along the last axis."""
        ...

    def least(self, x: T) -> T:
        """[..., 1]: along the last axis."""
        ...

    def matmul_nbits(self, x: T, packed: T, scales: T, zeros: T | None, bits: int, group: int) -> T:
        """x · Wᵀ by onnxruntime's own operator, in float32. packed: uint8 [rows, groups, group·bits/8], the lowest bits of a byte first.
        scales: float32 [rows·groups].  zeros: uint8, packed likewise for each row; None for the middle of the range."""
        ...


@dataclass(frozen=True)
class Precision(ABC):
    """One member of the family. Fields are its options; instances are hashable.

    value_bits: of one weight: a multiple of 8, or 4.  scale_names: what `quantize` stores beside the values, in a fixed order.
    rounds_inputs: whether `round_inputs` does anything. Compiled code multiplies the weights of a precision that it has no kernels for in
    float32; one that rounds its inputs, too, is refused there.
    tolerance: how far outputs of a whole model may be, relative to the largest, from those that are computed in another order: where
    inputs are rounded, a difference in the last bit becomes a whole step.
    calibrates: whether there is a field `calibrated`, for inputs with one scale that was found before.
    weight_bits_known: what a field `weight_bits` may be: first what compiled code takes, last what ONNX files do; empty without the field.
    groups_known: what a field `group` may be, of neighbouring inputs with one scale; empty without the field, and without a field
    `symmetric`. The member's default counts where a recipe says nothing.
    methods: how `quantize` may round.
    examples: options, as `parse` reads them, that the laws try; "" for none.
    """

    value_bits: ClassVar[int]
    rounds_inputs: ClassVar[bool] = False
    tolerance: ClassVar[float] = 1e-3
    calibrates: ClassVar[bool] = False
    weight_bits_known: ClassVar[tuple[int, ...]] = ()
    groups_known: ClassVar[tuple[Group, ...]] = ()
    methods: ClassVar[tuple[Method, ...]] = ("nearest",)
    examples: ClassVar[tuple[str, ...]] = ()

    @property
    def key(self) -> str:
        """Unique and parseable: `int8`, `int8:calibrated`, `bfloat16`. `precisions.from_key` reads it back."""
        return registry.name_of(self)

    @property
    def dtype(self) -> str:
        """As a recipe and a report write it."""
        return self.key.partition(":")[0]

    @property
    @abstractmethod
    def step(self) -> float:
        """The largest distance of two neighbouring numbers, as a share of the largest weight in a row."""

    @property
    def scale_names(self) -> tuple[str, ...]:
        return ()

    @classmethod
    @abstractmethod
    def parse(cls, options: str) -> Self | None:
        """The member that writes `<name>:<options>` (or `<name>`, for ""); None when it is not this member's way of writing."""

    @abstractmethod
    def quantize(self, weight: Tensor, largest_input: float | None = None) -> Quantized:
        """The nearest numbers of the format, dense. weight: [rows, cols], finite.  largest_input: the largest magnitude that enters
        the layer, needed by a precision whose inputs are calibrated."""

    def quantize_for(self, weight: Tensor, hessian: Tensor) -> Quantized:
        """As `quantize`, with the numbers that keep ‖(W - W')X‖ small, for a precision whose `methods` have gptq. hessian: XᵀX of the
        inputs, [cols, cols], up to a factor."""
        raise NotImplementedError

    @abstractmethod
    def dequantize(self, values: Tensor, scales: Mapping[str, Tensor]) -> Tensor:
        """float32 [rows, cols] of values [rows, cols] in the format. scales: by the names in `scale_names`."""

    def integers(self, values: Tensor, scales: Mapping[str, Tensor]) -> Integers | None:
        """Values [rows, cols] as kernels read integers in groups; None where that is not what they are."""
        return None

    def round_inputs(self, x: Tensor, scales: Mapping[str, Tensor]) -> Tensor:
        """x [..., cols] as the layer multiplies it, in the type of x; where `rounds_inputs` is false, x itself."""
        return x

    def numbers(self, nodes: Nodes[T], values: T, x: T) -> T:
        """In an ONNX file: the stored values in a type that runtimes move and multiply, each by itself, of whatever shape. A stored zero
        stays zero: it may come from a sparse format, or be put there by one. x: what enters the layer, for its type."""
        return values

    def product_of_pairs(self, nodes: Nodes[T], x: T, pairs: T, scales: Mapping[str, T]) -> T | None:
        """In an ONNX file: the same of a dense matrix as it is stored, uint8 [rows, ⌈cols/2⌉], for a precision of four bits whose product
        reads bytes. None: `numbers` and `product` have it."""
        return None

    @abstractmethod
    def product(self, nodes: Nodes[T], x: T, weight: T, scales: Mapping[str, T]) -> T:
        """In an ONNX file: round_inputs(x) · dequantize(values)ᵀ, [..., rows]. weight: [cols, rows], what `numbers` gave, turned."""


@dataclass(frozen=True)
class Integers:
    """A weight [rows, cols] as scale · (number - zero), in groups of neighbouring columns of a row.

    numbers: int8 [rows, cols].  scales: float32 [rows, groups].  zeros: int8 [rows, groups], numbers themselves: a weight of 0 is its
    group's zero.  group: columns in each, of which the last may have fewer; cols for one in a row.
    """

    numbers: Tensor
    scales: Tensor
    zeros: Tensor
    group: int


@dataclass(frozen=True)
class Scheme:
    """How a quantized weight is stored. format: of its values, None where they are dense."""

    precision: Precision
    format: Format[Any] | None = None

    @property
    def key(self) -> str:
        """`int8`, `int8:calibrated/block:1x4`. `precisions.scheme_from_key` reads it back."""
        return f"{self.precision.key}/{self.format.key}" if self.format else self.precision.key

    @property
    def value_names(self) -> tuple[str, ...]:
        return self.format.tensor_names if self.format else (VALUES,)

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """What is stored, in its fixed order, values first."""
        return (*self.value_names, *self.precision.scale_names)

    @property
    def in_pairs(self) -> bool:
        """Whether a byte of the stored values holds two of them."""
        return self.precision.value_bits == 4 and (self.format is None or self.format.says_extents)

    def extents(self, ops: Ops[T], tensors: Mapping[str, T]) -> Sequence[T]:
        """int64[1] each: the shape of the values, one an entry."""
        return (ops.rows, ops.cols) if self.format is None else self.format.extents(ops, tensors)

    def apart(self, ops: Ops[T], tensors: Mapping[str, T]) -> T:
        """The stored values, one an entry."""
        first = tensors[self.value_names[0]]
        return numbers_in_bytes(ops, first, self.extents(ops, tensors), 4) if self.in_pairs else first

    def paired(self, values: Tensor) -> Tensor:
        """Inverse of `apart`."""
        from sparsecc.bits import pack_bits  # here, because it imports torch

        return pack_bits(values.flatten(1) if values.dim() > 1 else values, 4) if self.in_pairs else values

    def hold(self, rows: int, cols: int, tensors: Sequence[Tensor]) -> Quantized:
        """What `Precision.quantize` or `Quantized.packed` gave, from its tensors. Raises ValueError for another number of them."""
        return Quantized(self, rows, cols, dict(zip(self.tensor_names, tensors, strict=True)))


@dataclass(frozen=True)
class Quantized(Form):
    """A weight matrix in fewer bits: the tensors that its scheme names, in their order."""

    word: ClassVar[str] = "quantized"
    deed: ClassVar[str] = "quantized to"
    trainable: ClassVar[bool] = False  # only rounding makes its values
    scheme: Scheme
    rows: int
    cols: int
    tensors: Mapping[str, Tensor]

    @property
    def storage(self) -> Scheme:
        return self.scheme

    @property
    def dtype(self) -> str:
        return "float32"

    @property
    def stored_dtype(self) -> str:
        return self.scheme.precision.dtype

    @property
    def sparse_format(self) -> Format[Any] | None:
        return self.scheme.format

    @property
    def nonzeros(self) -> int:
        return int(self._apart("").count_nonzero())

    def values(self, layer: str = "") -> Tensor:
        """[rows, cols] in the type of the format. Raises ModelError, which names `layer`, when tensors do not fit each other."""
        first, format = self._apart(layer), self.scheme.format
        if format is not None:
            others = {name: self.tensors[name] for name in self.scheme.value_names[1:]}
            return Packed(format, self.rows, self.cols, {self.scheme.value_names[0]: first, **others}).dense(layer)
        if tuple(first.shape) != (self.rows, self.cols):
            raise ModelError(f"layer '{layer}': its values have shape {tuple(first.shape)}, not {(self.rows, self.cols)}")
        return first

    def _apart(self, layer: str) -> Tensor:
        """The stored values, one an entry. Raises what `values` raises."""
        try:
            return self.scheme.apart(torch_ops(self.rows, self.cols), self.tensors)
        except (RuntimeError, IndexError, ValueError) as error:
            shape = tuple(self.tensors[self.scheme.value_names[0]].shape)
            raise ModelError(f"layer '{layer}': its values in bytes {shape} are damaged: {str(error).splitlines()[0]}") from None

    def integers(self, layer: str = "") -> Integers | None:
        """As kernels read them; None where inputs are rounded, too, or where numbers are no integers in groups. Raises what `values`
        raises."""
        return self.scheme.precision.integers(self.values(layer), self.scales)

    @property
    def scales(self) -> Mapping[str, Tensor]:
        return {name: self.tensors[name] for name in self.scheme.precision.scale_names}

    def keep(self, layer: str = "") -> Tensor:
        return self.values(layer) != 0

    @property
    def bytes_float32(self) -> int:
        """What the same numbers take in float32, in the same format."""
        kept, format = self._apart("").numel(), self.scheme.format
        return 4 * kept if format is None else format.bytes_packed(self.rows, self.cols, kept, 4)

    def dense(self, layer: str = "") -> Tensor:
        """float32 [rows, cols]. Raises ModelError, which names `layer`, when tensors do not fit each other."""
        try:
            return self.scheme.precision.dequantize(self.values(layer), self.scales)
        except RuntimeError as error:
            raise ModelError(f"layer '{layer}': its scales are damaged: {str(error).splitlines()[0]}") from None

    def packed(self, format: Format[Any], keep: Tensor) -> Quantized:
        """The same weight with its values in a sparse format. keep: bool [rows, cols], as for `Format.pack`."""
        scheme, tensors = replace(self.scheme, format=format), format.pack(self.values(), keep).tensors
        first = scheme.value_names[0]
        return replace(self, scheme=scheme, tensors={**tensors, first: scheme.paired(tensors[first]), **self.scales})
