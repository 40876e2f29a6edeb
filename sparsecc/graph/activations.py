"""The activations that a site can have, as functions: both hosts recognize them by what the operators after a layer compute."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

# From −10 to 10 without 0: where the functions differ, and where none of them has a pole.
POINTS = torch.linspace(-10, 10, 200, dtype=torch.float64)
TOLERANCE = 1e-5  # constants like √2 and 0.044715 come rounded to fp32
MOST_NODES = 14  # the tanh GELU, written out with x·x·x, has 9

KNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "hardswish": functional.hardswish,
    "relu6": functional.relu6,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "sigmoid": torch.sigmoid,
    "hardsigmoid": functional.hardsigmoid,
    "tanh": torch.tanh,
    "mish": functional.mish,
    "softplus": functional.softplus,
    "relu_squared": lambda x: functional.relu(x).square(),
}


def recognize(result: Tensor) -> str | None:
    """The name of the activation whose values at POINTS are `result`."""
    for name, function in KNOWN.items():
        if torch.allclose(result, function(POINTS), rtol=TOLERANCE, atol=TOLERANCE):
            return name
    return None
