"""Models as metrics call them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from sparsecc.graph.base import Graph, TensorSpec
from sparsecc.graph.binding import bind, is_torch
from sparsecc.graph.inputs import as_array
from sparsecc.runtime.outputs import rebuild


class Model(Protocol):
    """What is judged: `runtime.compiled.Compiled`, or `HostModel` for a graph that is not compiled."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def flat(self, values: Sequence[Any]) -> list[Any]:
        """The outputs in a row, for inputs in the model's order."""
        ...


class HostModel:
    """A graph, run by its host, and called as `Compiled` is: with numpy arrays or torch tensors, by position or by name; any torch tensor
    among the inputs makes the outputs torch tensors."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(self._graph.inputs)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return tuple(self._graph.outputs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raises InputError for inputs that do not fit."""
        return rebuild(self._graph.structure, self.flat(bind(self.inputs, args, kwargs)))

    def flat(self, values: Sequence[Any]) -> list[Any]:
        found = self._graph.run(values).outputs
        return (
            list(found) if any(is_torch(value) for value in values) else [as_array(value) if is_torch(value) else value for value in found]
        )
