"""What a sparse format is: which masks it holds, how it makes one from scores, how it stores the weights.

A format works on a weight matrix W of shape [rows, cols] = [out, in] and knows no graph. A mask is called `keep`: bool,
same shape, true where the weight stays. `sparsity` is the fraction of zeros. Packed weights are plain dense tensors, so
that torch.export, ONNX and safetensors can hold them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sparsecc import registry
from sparsecc.errors import ModelError, Refused
from sparsecc.forms import Form, dtype_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Format(ABC):
    """One member of the family. Fields are the format's parameters (r and c, or n and m); instances are hashable.

    tensor_names: what `pack` stores, in its fixed order, values first.
    """

    tensor_names: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def pattern(self) -> str:
        """How a recipe writes it: `unstructured`, `4x1`, `2:4`."""

    @property
    def key(self) -> str:
        """Unique and parseable: `csr`, `block:4x1`, `nm:2:4`. `formats.from_key` reads it back."""
        name = registry.name_of(self)
        return name if self.pattern == "unstructured" else f"{name}:{self.pattern}"

    @classmethod
    @abstractmethod
    def parse(cls, pattern: str) -> Self | None:
        """What a recipe means by `pattern`; None when it is not this member's way of writing.
        Raises RecipeError for a pattern that cannot exist (3:2)."""

    @classmethod
    @abstractmethod
    def fits(cls, keep: Tensor) -> list[tuple[Self, int]]:
        """This member's formats that can hold a mask, padding allowed, each with the number of weights it would store."""

    @property
    def fixed_sparsity(self) -> float | None:
        """The one sparsity that this format has (N:M), None when any can be asked for."""
        return None

    @property
    def unit_size(self) -> int:
        """Weights in a unit: what is kept or dropped whole."""
        return 1

    @property
    def part(self) -> tuple[int, int]:
        """Rows and columns of the smallest part of a matrix that has a mask of its own."""
        return 1, 1

    def unit_scores(self, score: Tensor) -> Tensor:
        """float[rows*cols / unit_size]: the summed score of each unit, in the order of their index."""
        return score.reshape(-1)

    @abstractmethod
    def check(self, rows: int, cols: int) -> Refused | None:
        """Refused when a matrix of this shape cannot be stored (not divisible, too large for the index type)."""

    @abstractmethod
    def project(self, score: Tensor, sparsity: float) -> Tensor:
        """The mask of this format that keeps the highest scores.

        score: float[rows, cols], higher is more worth keeping.  sparsity: fraction of zeros, in [0, 1).
        Returns keep: bool[rows, cols]. Counts are exact: round(sparsity * units) units are dropped (a unit is a weight
        or a block); ties go to the lower index, which is kept. A format with a `fixed_sparsity` ignores `sparsity`.
        """

    @abstractmethod
    def holds(self, keep: Tensor) -> Refused | None:
        """None when the mask fits this format with nothing wasted, otherwise why not (the nearest miss)."""

    @abstractmethod
    def cover(self, keep: Tensor) -> Tensor | Refused:
        """The smallest mask of this format that contains `keep` (`keep` itself where `holds` is None): what `pack` stores."""

    @abstractmethod
    def pack(self, weight: Tensor, keep: Tensor) -> Packed:
        """Store weight·keep. Requires that neither `check` nor `cover` refuses; zeros that fill up a unit are stored."""

    @abstractmethod
    def unpack(self, packed: Packed) -> Tensor:
        """The dense matrix [rows, cols], the slow and obvious way; bit-exact inverse of `pack`."""

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
    def storage(self) -> Format:
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
