"""What a sparse format is: how it stores the weights that a mask keeps, and how they are read back.

A format works on a weight matrix W of shape [rows, cols] = [out, in] and knows no graph. A mask is called `keep`: bool,
same shape, true where the weight stays. Packed weights are plain dense tensors, so that torch.export, ONNX and safetensors
can hold them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, Self, TypeVar

from sparsecc import registry
from sparsecc.errors import ModelError, Refused
from sparsecc.formats.primitives import torch_ops
from sparsecc.forms import Form, dtype_of
from sparsecc.patterns.base import Pattern

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.formats.primitives import Ops, T

P = TypeVar("P", bound=Pattern)
_ANY_MASK = "unstructured"  # the pattern that a key leaves out


@dataclass(frozen=True)
class Format(ABC, Generic[P]):
    """One member of the family. Instances are hashable.

    pattern: the masks that are stored as they are; others are filled up with zeros, where they can be.
    stores: the patterns of this member.
    tensor_names: what `pack` stores, in its fixed order, values first.
    examples: what may stand behind the name in its keys, "" for nothing; the laws and tests run over these formats.
    """

    stores: ClassVar[type[Pattern]]
    tensor_names: ClassVar[tuple[str, ...]]
    examples: ClassVar[tuple[str, ...]]

    pattern: P

    @property
    def key(self) -> str:
        """Unique and parseable: `csr`, `block:4x1`, `nm:2:4`. `formats.from_key` reads it back."""
        name, pattern = registry.name_of(self), str(self.pattern)
        return name if pattern == _ANY_MASK else f"{name}:{pattern}"

    @classmethod
    def parse(cls, parameters: str) -> Self | None:
        """The format whose key has this behind the name; None when this member writes no such key."""
        pattern = cls.stores.parse(parameters or _ANY_MASK)
        return None if pattern is None else cls.of(pattern)

    @classmethod
    def of(cls, pattern: Pattern) -> Self | None:
        """The format of this member that stores masks of a pattern as they are; None when it stores other patterns."""
        return cls(pattern) if isinstance(pattern, cls.stores) else None  # type: ignore[arg-type]  # `stores` is P

    @classmethod
    @abstractmethod
    def fits(cls, keep: Tensor) -> Sequence[tuple[Self, int]]:
        """This member's formats that can store a mask, padding allowed, each with the number of weights that it would store."""

    def check(self, rows: int, cols: int) -> Refused | None:
        """Refused when a matrix of this shape cannot be stored (not divisible, too large for the index type)."""
        return self.pattern.check(rows, cols)

    @abstractmethod
    def pack(self, weight: Tensor, keep: Tensor) -> Packed:
        """Store weight·keep. Requires that neither `check` nor `pattern.cover` refuses; zeros that fill up a unit are stored."""

    @abstractmethod
    def decode(self, ops: Ops[T], tensors: Mapping[str, T]) -> T:
        """The matrix [rows, cols] of what `pack` stored, in the type of the values; bit-exact.

        Written once for both worlds: with `TorchOps` it computes the matrix, with the ONNX ones it writes the function that files carry.
        """

    def extents(self, ops: Ops[T], tensors: Mapping[str, T]) -> Sequence[T]:
        """int64[1] each: the shape of the values, read from the other tensors and from the sizes of the matrix. Numbers of four bits need
        it, of which two are stored in a byte; in a format that does not say it they take a byte each."""
        raise NotImplementedError

    @property
    def says_extents(self) -> bool:
        return type(self).extents is not Format.extents

    def unpack(self, packed: Packed) -> Tensor:
        """The dense matrix [rows, cols]. Raises RuntimeError, IndexError or ValueError for tensors that do not fit each other."""
        return self.decode(torch_ops(packed.rows, packed.cols), packed.tensors)

    def hold(self, rows: int, cols: int, tensors: Sequence[Tensor]) -> Packed:
        """What `pack` gave, from its tensors. Raises ValueError for another number of them."""
        return Packed(self, rows, cols, dict(zip(self.tensor_names, tensors, strict=True)))

    @abstractmethod
    def bytes_packed(self, rows: int, cols: int, kept: int, itemsize: int = 4) -> int:
        """Size of all tensors of `pack` for `kept` stored weights, in bytes."""


@dataclass(frozen=True)
class Packed(Form):
    """A weight matrix in a format: plain dense tensors by name, in the format's fixed order (values first)."""

    word: ClassVar[str] = "packed"
    deed: ClassVar[str] = "packed in"
    format: Format
    rows: int
    cols: int
    tensors: Mapping[str, Tensor]

    @property
    def storage(self) -> Format:  # pyright: ignore[reportIncompatibleMethodOverride]  # its names are of the class, Storage asks for a property
        return self.format

    @property
    def sparse_format(self) -> Format:
        return self.format

    @property
    def dtype(self) -> str:
        return dtype_of(self.values)

    @property
    def nonzeros(self) -> int:
        return int(self.values.count_nonzero())

    def keep(self, layer: str = "") -> Tensor:
        return self.dense(layer) != 0

    def dense(self, layer: str = "") -> Tensor:
        """[rows, cols]. Raises ModelError, which names `layer`, when indices point outside or tensors do not fit each other."""
        try:
            return self.format.unpack(self)
        except (RuntimeError, IndexError, ValueError) as error:
            raise ModelError(f"layer '{layer}': its packed weight is damaged: {str(error).splitlines()[0]}") from None

    @property
    def values(self) -> Tensor:
        """The stored weights."""
        return self.tensors[self.format.tensor_names[0]]
