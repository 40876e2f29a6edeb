"""What a structured matrix is: a product of block-diagonal or sparse factors and permutations, and how one near to a weight is found.

A structure works on a weight matrix W of shape [rows, cols] = [out, in] and knows no graph. Its factors are plain dense tensors,
so that torch.export, ONNX and safetensors can hold them and gradients reach every number.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sparsecc import registry
from sparsecc.errors import ModelError, Refused
from sparsecc.formats.base import Packed
from sparsecc.forms import Form, dtype_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Factor:
    """A block-diagonal matrix, then a permutation. weight: [blocks, rows, cols]; it takes `inputs` features, block by block, and gives
    `outputs`; these are then seen as `view`, transposed by `order` and flattened again (view None: left as they are).

    packed: of a factor that is stored in a sparse format, whose one block is what that unpacks to.  tied: how many times each block
    stands on the diagonal, one after the other. It is stored once and its gradients are summed; all that is multiplied by it is for
    every operator only more tokens, so that nothing ever copies it."""

    weight: Tensor
    view: tuple[int, ...] | None = None
    order: tuple[int, ...] | None = None
    packed: Packed | None = None
    tied: int = 1

    @classmethod
    def sparse(cls, packed: Packed, view: tuple[int, ...] | None = None, order: tuple[int, ...] | None = None) -> Self:
        return cls(packed.dense().unsqueeze(0), view, order, packed)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """As they are stored."""
        return (self.weight,) if self.packed is None else tuple(self.packed.tensors.values())

    @property
    def on_diagonal(self) -> int:
        """Blocks of the matrix, tied ones counted each time."""
        return self.weight.shape[0] * self.tied

    @property
    def inputs(self) -> int:
        return self.on_diagonal * self.weight.shape[2]

    @property
    def outputs(self) -> int:
        return self.on_diagonal * self.weight.shape[1]

    def by_block(self, x: Tensor) -> Tensor:
        """[tokens, blocks·tied·features] → [blocks, tokens·tied, features]: what each stored block meets."""
        blocks = len(self.weight)
        return x.reshape(len(x), blocks, self.tied, x.shape[1] // self.on_diagonal).transpose(0, 1).flatten(1, 2)

    def by_token(self, x: Tensor) -> Tensor:
        """Inverse of `by_block`."""
        return x.unflatten(1, (x.shape[1] // self.tied, self.tied)).transpose(0, 1).flatten(1)

    def multiply(self, x: Tensor) -> Tensor:
        """The block-diagonal part: [tokens, inputs] → [tokens, outputs]."""
        return self.by_token(self.by_block(x) @ self.weight.mT)

    def permute(self, x: Tensor) -> Tensor:
        """The permutation of features, [tokens, outputs] → the same shape."""
        if self.view is None or self.order is None:
            return x
        return x.reshape(-1, *self.view).permute(0, *(1 + axis for axis in self.order)).flatten(1)

    def restore(self, y: Tensor) -> Tensor:
        """Inverse, and transpose, of `permute`."""
        if self.view is None or self.order is None:
            return y
        moved = y.reshape(-1, *(self.view[axis] for axis in self.order))
        return moved.permute(0, *(1 + self.order.index(axis) for axis in range(len(self.order)))).flatten(1)


def apply(factors: Sequence[Factor], x: Tensor) -> Tensor:
    """x[..., in] through all factors → [..., out]."""
    y = x.reshape(-1, x.shape[-1])
    for factor in factors:
        y = factor.permute(factor.multiply(y))
    return y.reshape(*x.shape[:-1], y.shape[-1])


@dataclass(frozen=True)
class Structured(Form):
    """A weight matrix as the factors of a structure: their weights by name, in the order in which they are applied to x."""

    word: ClassVar[str] = "structured"
    deed: ClassVar[str] = "factored into"
    structure: Structure
    rows: int
    cols: int
    tensors: Mapping[str, Tensor]

    @property
    def storage(self) -> Structure:  # pyright: ignore[reportIncompatibleMethodOverride]  # its names are of the class, Storage asks for a property
        return self.structure

    @property
    def dtype(self) -> str:
        return dtype_of(next(tensor for name, tensor in self.tensors.items() if name not in self.structure.index_names))

    @property
    def sparse_format(self) -> None:
        return None

    @property
    def pattern(self) -> str:
        return self.structure.key

    @property
    def nonzeros(self) -> None:
        return None

    def keep(self, layer: str = "") -> None:
        return None

    def factors(self) -> tuple[Factor, ...]:
        """In the order in which they are applied to x."""
        return self.structure.factors(self.rows, self.cols, [self.tensors[name] for name in self.structure.tensor_names])

    def dense(self, layer: str = "") -> Tensor:
        """[rows, cols]. Raises ModelError, which names `layer`, when the factors do not fit each other."""
        import torch

        try:
            factors = self.factors()
            eye = torch.eye(self.cols, dtype=factors[0].weight.dtype, device=factors[0].weight.device)
            return apply(factors, eye).T.reshape(self.rows, self.cols)
        except (RuntimeError, IndexError, ValueError) as error:
            raise ModelError(f"layer '{layer}': its factors are damaged: {str(error).splitlines()[0]}") from None

    def multiply(self, x: Tensor) -> Tensor:
        return apply(self.factors(), x)


@dataclass(frozen=True)
class Structure(ABC):
    """One member of the family. Fields are the structure's parameters (rank, block counts); instances are hashable.

    tensor_names: the factors' tensors in the order in which they are applied to x.  index_names: those that hold positions, uint8.
    whitens: whether `project` makes use of a covariance.  nearest: whether what it finds is the nearest; else it is a search's best.
    examples: parameters, as `parse` reads them, that the laws try; matrices with sides of 24, 40 and 64 can have each of them, and
    matrices of 8×16 at least one.
    """

    tensor_names: ClassVar[tuple[str, ...]]
    index_names: ClassVar[tuple[str, ...]] = ()
    whitens: ClassVar[bool] = False
    nearest: ClassVar[bool] = True
    examples: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def parameters(self) -> str:
        """The fields as `parse` reads them: `64`, `4x8:2`."""

    @property
    def key(self) -> str:
        """Unique and parseable: `low_rank:64`, `monarch:4x8:2`. `structures.from_key` reads it back."""
        return f"{registry.name_of(self)}:{self.parameters}"

    @classmethod
    @abstractmethod
    def parse(cls, parameters: str) -> Self | None:
        """Inverse of `parameters`; None for what this member does not write."""

    @classmethod
    @abstractmethod
    def sized(cls, rows: int, cols: int, params: float) -> Sequence[Self]:
        """The members that keep at most this share of rows·cols parameters, each as large as it may be, best use of it first."""

    @abstractmethod
    def shapes(self, rows: int, cols: int) -> tuple[tuple[int, ...], ...]:
        """Of each tensor: [blocks, rows, cols] of a factor's weight, or as a sparse format stores it."""

    @abstractmethod
    def check(self, rows: int, cols: int) -> Refused | None:
        """Refused when no matrix of this shape has the structure (not divisible, a rank that a block cannot have)."""

    @abstractmethod
    def project(self, weight: Tensor, covariance: Tensor | None = None) -> Structured:
        """The nearest matrix of this structure, or one as near as a search gets. Requires that `check` does not refuse and that the
        weight is finite.

        weight: [rows, cols], its dtype is that of the factors.  covariance: H = XᵀX/n [cols, cols] of the inputs X [n, cols];
        where the structure `whitens`, nearest is in the output, ‖(W − W')Xᵀ‖, and without one in the weights, ‖W − W'‖.
        """

    @abstractmethod
    def factors(self, rows: int, cols: int, weights: Sequence[Tensor]) -> tuple[Factor, ...]:
        """The factors of a matrix with these weights. A view begins with the factor's blocks or axes that make them up, its
        transposed order with the next factor's."""

    def hold(self, rows: int, cols: int, tensors: Sequence[Tensor]) -> Structured:
        """What `project` gave, from its tensors. Raises ValueError for another number of them, TypeError for other shapes."""
        named = dict(zip(self.tensor_names, tensors, strict=True))
        if self.check(rows, cols) or tuple(tuple(tensor.shape) for tensor in tensors) != self.shapes(rows, cols):
            raise TypeError(f"its factors are not those of a {rows}×{cols} matrix")
        return Structured(self, rows, cols, named)

    def params(self, rows: int, cols: int) -> int:
        """Numbers in all factors, positions left out."""
        named = zip(self.tensor_names, self.shapes(rows, cols), strict=True)
        return sum(math.prod(shape) for name, shape in named if name not in self.index_names)

    def products(self, rows: int, cols: int) -> int:
        """Multiplications for each token: as many as `params` where no factor is tied."""
        return sum(
            factor.tied * sum(tensor.numel() for tensor in factor.tensors if tensor.is_floating_point())
            for factor in self.outline(rows, cols)
        )

    def outline(self, rows: int, cols: int) -> tuple[Factor, ...]:
        """The factors without their numbers: shapes, ties and permutations."""
        import torch

        named = zip(self.tensor_names, self.shapes(rows, cols), strict=True)
        like = {name: torch.uint8 if name in self.index_names else torch.float32 for name in self.tensor_names}
        return self.factors(rows, cols, [torch.empty(shape, dtype=like[name], device="meta") for name, shape in named])
