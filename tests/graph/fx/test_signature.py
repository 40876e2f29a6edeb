"""What a graph says about its outputs."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsecc.errors import ModelError
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.runtime.outputs import rebuild

Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Answer:
    score: Tensor
    extra: Tensor | None = None


torch.export.register_dataclass(Answer, serialized_type_name="tests.Answer")


class Returning(nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x + 1,
        lambda x: (x + 1,),
        lambda x: [x + 1, (x * 2, None)],
        lambda x: {"b": x + 1, "a": [x * 2]},
        lambda x: OrderedDict(z=x + 1, y=x * 2),
        lambda x: Pair(x + 1, {"in": x * 2}),
        lambda x: Answer(x + 1),
        lambda x: (x, x + 1, "text", 2.5, True),
    ],
)
def test_the_return_value_is_rebuilt(make: Any) -> None:
    x = torch.randn(2, 3)
    graph = FxGraph.from_module(Returning(make), (x,))
    rebuilt, expected = rebuild(graph.structure, graph.run((x,)).outputs), make(x)
    assert str(rebuilt).removeprefix("OrderedDict") == str(dict(expected) if isinstance(expected, OrderedDict) else expected)


def test_a_return_type_of_torch_becomes_a_tuple() -> None:
    x = torch.randn(2, 3)
    graph = FxGraph.from_module(Returning(lambda x: x.max(0)), (x,))
    rebuilt = rebuild(graph.structure, graph.run((x,)).outputs)
    assert isinstance(rebuilt, tuple) and all(torch.equal(a, b) for a, b in zip(rebuilt, x.max(0), strict=True))


def test_sizes_and_odd_keys_are_refused() -> None:
    with pytest.raises(ModelError, match="a number that depends on the input's shape"):
        FxGraph.from_module(Returning(lambda x: (x + 1, x.shape[0])), (torch.randn(2, 3),))
    with pytest.raises(ModelError, match="with the key 0; name outputs with strings"):
        FxGraph.from_module(Returning(lambda x: {0: x + 1}), (torch.randn(2, 3),))


def test_an_output_size_may_be_an_expression() -> None:
    graph = FxGraph.from_module(Returning(lambda x: torch.cat([x, x])), (torch.randn(2, 3),))
    assert graph.outputs[0].shape == ("2*x_0", "x_1")
    assert [spec.dtype for spec in graph.outputs] == ["float32"]
