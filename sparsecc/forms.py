"""What a weight is when it is not stored dense: some tensors, and a word for what they mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.formats.base import Format


class Storage(Protocol):
    """How a weight is stored: a format, a structure, a scheme of a precision. Hashable.

    tensor_names: what it stores, in a fixed order.
    """

    @property
    def key(self) -> str:
        """Unique, and parseable by the family that it comes from."""
        ...

    @property
    def tensor_names(self) -> tuple[str, ...]: ...

    def hold(self, rows: int, cols: int, tensors: Sequence[Tensor]) -> Form:
        """The matrix [rows, cols] that these tensors, in the order of `tensor_names`, stand for. Raises ValueError when they are too many
        or too few, TypeError when their shapes show that they are no such matrix."""
        ...


class Form(ABC):
    """A weight matrix [rows, cols] in a storage: tensors by the names, and in the order, of `storage.tensor_names`.

    word, deed: what was done to the weight ("packed"), and that before a number of bytes ("packed in").
    trainable: whether gradients of its floating-point tensors mean anything.
    """

    word: ClassVar[str]
    deed: ClassVar[str]
    trainable: ClassVar[bool] = True
    rows: int
    cols: int
    tensors: Mapping[str, Tensor]

    @property
    @abstractmethod
    def storage(self) -> Storage: ...

    @property
    def key(self) -> str:
        return self.storage.key

    @property
    @abstractmethod
    def dtype(self) -> str:
        """Of what `dense` gives, by numpy's name."""

    @property
    def stored_dtype(self) -> str:
        """Of the numbers that are stored, by numpy's name."""
        return self.dtype

    @property
    @abstractmethod
    def sparse_format(self) -> Format[Any] | None:
        """Of its values; None where these are dense, or factors."""

    @property
    def pattern(self) -> str | None:
        """How a recipe writes what is kept; None where that is all."""
        return str(self.sparse_format.pattern) if self.sparse_format else None

    @property
    @abstractmethod
    def nonzeros(self) -> int | None:
        """Weights that are not zero; None where they are made of several factors."""

    @abstractmethod
    def keep(self, layer: str = "") -> Tensor | None:
        """bool [rows, cols]: which weights are not zero; None where they are made of several factors. Raises what `dense` raises."""

    @abstractmethod
    def dense(self, layer: str = "") -> Tensor:
        """[rows, cols], made anew at each call. Raises ModelError, which names `layer`, when the tensors do not fit each other."""

    def multiply(self, x: Tensor) -> Tensor:
        """x[..., cols] Wᵀ, as the stored numbers have it: what inputs are rounded to is the operator's."""
        return x @ self.dense().mT

    @property
    def nbytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


def dtype_of(tensor: Tensor) -> str:
    """numpy's name of a tensor's element type."""
    return str(tensor.dtype).removeprefix("torch.")
