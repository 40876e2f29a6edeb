"""What an operator of the vocabulary has to say, once, for every stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.forms import Form

ONNX_DOMAIN = "ai.sparsecc"
TORCH_NAMESPACE = "sparsecc"
CALLS = "calls"  # what a counter of calls is called, among an operator's arguments and in a model


class TorchCall(NamedTuple):
    """target: the torch operator.  options: its last arguments, those that are neither inputs nor tensors of the operator's own."""

    target: Any
    options: tuple[Any, ...]


class Operator(ABC):
    """What can stand in the place of a site (`Graph.replace`), with its tensors.

    takes: the kinds of site.  trainable: whether its tensors are parameters where those of the site were.
    counter: which of its tensors counts calls, where one does: graphs add one to it after each. int64[].
    """

    takes: ClassVar[tuple[str, ...]]
    bias: Tensor | None = None

    @property
    def trainable(self) -> bool:
        return False

    @property
    def counter(self) -> str | None:
        return None

    @property
    @abstractmethod
    def tensors(self) -> Mapping[str, Tensor]:
        """What a graph stores for it besides the bias, by name, in the order of the operator's arguments."""

    @abstractmethod
    def torch_call(self, name: str) -> TorchCall:
        """How a torch graph calls this operator at the site `name`."""

    @abstractmethod
    def torch_arguments(self, inputs: Sequence[Any], tensors: Sequence[Any], bias: Any) -> tuple[Any, ...]:
        """The arguments before the options, of what enters the site and what reads the tensors and the bias."""


@dataclass(frozen=True)
class SiteOp(Operator):
    """An operator with one weight, ready to stand in the place of a layer. Each narrows the type of `stored`.

    parameter: of the torch operator, and of nodes in ONNX: what the key of the weight's storage is called there.
    """

    takes: ClassVar[tuple[str, ...]] = ("Linear",)
    parameter: ClassVar[str]

    stored: Form = field(repr=False)
    bias: Tensor | None = field(default=None, repr=False)

    @staticmethod
    @abstractmethod
    def storage(key: str) -> Any:
        """The `Storage` of a weight with this key. Raises RecipeError for one that sparsecc does not write."""

    @property
    def trainable(self) -> bool:
        return self.stored.trainable

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return self.stored.tensors

    def torch_arguments(self, inputs: Sequence[Any], tensors: Sequence[Any], bias: Any) -> tuple[Any, ...]:
        return (*inputs, list(tensors), bias)
