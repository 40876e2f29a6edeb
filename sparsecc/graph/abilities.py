"""What only some hosts' graphs can do."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparsecc.graph.base import Graph

if TYPE_CHECKING:
    import onnx
    from torch.export import ExportedProgram


class Specializable(Graph):
    """A graph that can be had as a program of torch."""

    @abstractmethod
    def specialize(self, example_inputs: Sequence[Any] | Mapping[str, Any]) -> ExportedProgram:
        """The current model for the shapes of these inputs alone: no symbols, no assertions, shape arithmetic and constant masks
        folded; linear, convolution, attention, norms and activations are single operators. Input, and what it raises, as for `run`."""


class HasProto(Graph):
    """A graph that is an ONNX model."""

    @abstractmethod
    def fixed(self, input_shapes: Mapping[str, Sequence[int]]) -> HasProto:
        """A copy for these input shapes only, in standard operators, with all arithmetic on shapes folded; sites keep their names.
        Raises InputError for a name, rank or size that the model does not take."""

    @abstractmethod
    def proto(self) -> onnx.ModelProto:
        """The model with the functions it calls. Above 2 GB a ModelProto can be used but not serialized; `save` can."""
