"""Functions that keep what is small against torch and onnxruntime: relatively, in two builds."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from onnx import helper
from torch import Tensor

from sparsecc.codegen.compiler import build
from sparsecc.codegen.importers.near_zero import FUNCTIONS
from sparsecc.graph.onnx.graph import OnnxGraph
from tests.codegen.importers.onnx.test_operators import build as onnx_model
from tests.codegen.whole import HERE, Case, compare, run

X = torch.tensor([1e-8, -1e-6, 1e-4, 0, 0.1, -0.2, 0.249, 0.251, 0.5, -0.5, -0.999999, 1, 3, -3, 9, -20, 1e3, 1e20, math.inf, -math.inf])
OTHERS: dict[str, Case] = {
    "log1p of integers": (lambda x: torch.log1p(x.abs().clamp(0, 9).int()), (X,)),
    "logsigmoid": (torch.nn.functional.logsigmoid, (X,)),
    "atanh of float16": (lambda x: torch.atanh(x.half()), (X,)),
}


@cache
def results() -> dict[str, list[tuple[Tensor, Tensor]]]:
    return compare({**{name: (getattr(torch, name), (X,)) for name in FUNCTIONS}, **OTHERS})


@pytest.mark.parametrize("name", [*FUNCTIONS, *OTHERS])
def test_small_arguments_and_large_ones(name: str) -> None:
    [(compiled, oracle)] = results()[name]
    assert compiled.dtype == oracle.dtype
    assert torch.allclose(compiled, oracle, rtol=1e-3 if oracle.dtype == torch.float16 else 3e-6, atol=0, equal_nan=True)


def test_onnx() -> None:
    x = X[X.abs() < 1].numpy()
    proto = onnx_model([helper.make_node(name, ["x"], [name]) for name in ("Sinh", "Asinh", "Atanh")], {"x": x}, {})
    library, _ = build(OnnxGraph.from_proto(proto), [torch.from_numpy(x)], HERE, measure=False)
    for compiled, function in zip(run(library, [x]), (np.sinh, np.arcsinh, np.arctanh), strict=True):
        assert np.allclose(compiled, function(x.astype(np.float64)), rtol=3e-6, atol=0)
