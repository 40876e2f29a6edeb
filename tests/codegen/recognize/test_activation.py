"""Activations written out: found in each spelling, and not in one that computes something else."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.codegen.recognize.recognizing import operators, recognized, recognized_onnx
from tests.codegen.whole import compare, random
from tests.graph.onnx_models import model, node
from tests.tolerance import assert_close

X = 3 * random(4, 6)
ROOT = math.sqrt(2)
Function = Callable[[Tensor], Tensor]

SPELLED: dict[str, tuple[str, Function]] = {
    "gelu": ("gelu", lambda x: 0.5 * x * (1 + torch.erf(x / ROOT))),
    "gelu, half last": ("gelu", lambda x: x * (1 + torch.erf(x / ROOT)) * 0.5),
    "gelu, half inside": ("gelu", lambda x: x * (0.5 * (torch.erf(x * (1 / ROOT)) + 1))),
    "gelu, factors turned": ("gelu", lambda x: (torch.erf((1 / ROOT) * x) + 1.0) * 0.5 * x),
    "silu": ("silu", lambda x: x * torch.sigmoid(x)),
    "silu, turned": ("silu", lambda x: torch.sigmoid(x) * x),
    "relu6": ("relu6", lambda x: x.clamp(0, 6)),
    "hardswish": ("hardswish", lambda x: x * (x + 3).clamp(0, 6) / 6),
    "hardswish, gate divided": ("hardswish", lambda x: x * ((x + 3).clamp(0, 6) / 6)),
    "hardswish, gate first": ("hardswish", lambda x: (3 + x).clamp(0, 6) * (1 / 6) * x),
    "hardswish of a scaled gate": ("hardswish", lambda x: x * (x * (1 / 6) + 0.5).clamp(0, 1)),
    "hardswish of torch": ("hardswish", functional.hardswish),
    "hardsigmoid": ("hardsigmoid", lambda x: (x + 3).clamp(0, 6) / 6),
    "hardsigmoid, scaled": ("hardsigmoid", lambda x: (x / 6 + 0.5).clamp(0, 1)),
    "hardsigmoid of torch": ("hardsigmoid", functional.hardsigmoid),
}
OTHERS: dict[str, Function] = {
    "no half": lambda x: x * (1 + torch.erf(x / ROOT)),
    "erf of another scale": lambda x: 0.5 * x * (1 + torch.erf(x / 2)),
    "erf plus another number": lambda x: 0.5 * x * (2 + torch.erf(x / ROOT)),
    "erf of another value": lambda x: 0.5 * x * (1 + torch.erf(x.exp() / ROOT)),
    "sigmoid of another value": lambda x: x * torch.sigmoid(2 * x),
    "clip at other bounds": lambda x: x.clamp(0, 5) + x.clamp(-1, 6),
    "hard gate of another shift": lambda x: x * (x + 2).clamp(0, 6) / 6,
    "hard gate of another divisor": lambda x: x * (x + 3).clamp(0, 6) / 5,
    "hard gate of another value": lambda x: x * (x.exp() + 3).clamp(0, 6) / 6,
    "hard gate of another slope": lambda x: x * (x / 5 + 0.5).clamp(0, 1),
    "hard gate with other bounds": lambda x: x * (x / 6 + 0.5).clamp(0, 2),
    "divided by itself": lambda x: (x + 3).clamp(0, 6) / x,
}
NAMES = {"gelu", "silu", "relu6", "hardswish", "hardsigmoid"}


@pytest.mark.parametrize("name", SPELLED)
def test_found(name: str) -> None:
    wanted, function = SPELLED[name]
    assert operators(recognized(function, X)) == [wanted]


@pytest.mark.parametrize("name", OTHERS)
def test_look_alikes_stay(name: str) -> None:
    parts = {"hardsigmoid", "relu6"} if "hard gate" in name else {"sigmoid"}  # of what is not the whole
    assert not (NAMES - parts) & {*operators(recognized(OTHERS[name], X))}


def test_float64_stays() -> None:
    """The functions that stand for them here are fp32."""
    assert "hardswish" not in operators(recognized(functional.hardswish, X.double()))
    assert "hardsigmoid" not in operators(recognized(functional.hardsigmoid, X.double()))


@pytest.mark.parametrize(("op_type", "name"), [("HardSwish", "hardswish"), ("Gelu", "gelu")])
def test_onnx_operators(op_type: str, name: str) -> None:
    found = operators(recognized_onnx(model([node(op_type, "x", "y")], {"x": [4, 6]}, {"y": [4, 6]}, opset=20)))
    assert [op.removeprefix("nn.") for op in found] == [name]


def test_they_compute_what_was_spelled() -> None:
    for (compiled, oracle), *_ in compare(
        {name: (f, (X,)) for name, f in {**OTHERS, **{k: f for k, (_, f) in SPELLED.items()}}.items()}
    ).values():
        assert_close(compiled, oracle)
