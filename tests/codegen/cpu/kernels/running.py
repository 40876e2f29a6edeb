"""Compiles one kernel, runs it on numpy arrays and knows what a matrix kernel should have computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from hypothesis import settings
from torch import Tensor
from torch.nn import functional

from sparsecc.codegen import tvm_api
from sparsecc.codegen.cpu import threads
from sparsecc.codegen.cpu.target import Target, detect
from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.spec import MatmulSpec
from tests.tolerance import assert_close

few = settings(max_examples=6, deadline=None, derandomize=True)  # every example compiles a kernel
HERE = detect(2)
NARROW = replace(HERE, vector_bits=128, registers=16)  # as on a CPU with short vectors; LLVM takes them here, too

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "hardsigmoid": functional.hardsigmoid,
    "hardswish": functional.hardswish,
    "relu6": functional.relu6,
}


def compiled(func: Any, target: Target = HERE) -> Callable[..., None]:
    module = tvm_api.IRModule({"main": func.with_attr("global_symbol", "main")})
    function = tvm_api.compile_module(module, target.llvm)["main"]
    return lambda *arguments: threads.run(target.threads, lambda: function(*arguments))


@lru_cache(maxsize=64)
def built(build: Callable[..., Any], *arguments: Any) -> Callable[..., None]:
    """The kernel that `build` makes of a spec, knobs where it takes some, and a target. Tests nearby share it."""
    return compiled(build(*arguments), arguments[-1])


def assembly(func: Any, target: Target) -> str:
    module = tvm_api.IRModule({"main": func.with_attr("global_symbol", "main")})
    return tvm_api.compile_module(module, target.llvm).mod.inspect_source("asm")


def call(function: Callable[..., None], arrays: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """The output, in which whatever was not written is NaN."""
    return call_for_several(function, arrays, [shape])[0]


def call_for_several(function: Callable[..., None], arrays: list[np.ndarray], shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    outs = [tvm_api.tensor(np.full(shape, np.nan, np.float32)) for shape in shapes]
    function(*(tvm_api.tensor(array) for array in arrays), *outs)
    return [out.numpy() for out in outs]


def random(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def check_matmul(kernel: ModuleType, spec: MatmulSpec, knobs: Knobs, matrix: np.ndarray, target: Target = HERE, bias: bool = True) -> None:
    """`kernel` (dense_matmul or row_block_spmm) computes what `spec` says for this matrix, and writes nothing else."""
    run_matmul(built(kernel.build, spec, knobs, target), kernel, spec, knobs, matrix, bias)


def run_matmul(
    function: Callable[..., None], kernel: ModuleType, spec: MatmulSpec, knobs: Knobs, matrix: np.ndarray, bias: bool = True
) -> None:
    rng = np.random.default_rng(1)
    x, residual = random(rng, *spec.x_shape), random(rng, *spec.y_shape)
    offset = random(rng, spec.rows) if bias else None
    prepared = kernel.prepare(matrix, offset, spec, knobs)
    padded_bias = next(array for array in prepared[1:] if array.dtype == np.float32)
    got = call(function, [x, *prepared, residual if spec.epilogue.residual else padded_bias], spec.y_shape)
    written = np.ascontiguousarray(got[:, :, : spec.positions])
    assert_close(torch.from_numpy(written), expected(spec, x, matrix, offset, residual))
    assert np.isnan(got[:, :, spec.positions :]).all()


def expected(spec: MatmulSpec, x: np.ndarray, matrix: np.ndarray, bias: np.ndarray | None, residual: np.ndarray) -> Tensor:
    """In float64, tap by tap."""
    gathered = np.concatenate([x[:, :, tap : tap + spec.positions] for tap in spec.taps], axis=1)
    total = torch.from_numpy(matrix.astype(np.float64) @ gathered.astype(np.float64))
    total = total if bias is None else total + torch.from_numpy(bias).double()[:, None]
    epilogue, other = spec.epilogue, torch.from_numpy(residual[:, :, : spec.positions]).double()
    if epilogue.residual and epilogue.residual_first:
        total = total + other
    if epilogue.activation is not None:
        total = ACTIVATIONS[epilogue.activation](total)
    if epilogue.residual and not epilogue.residual_first:
        total = total + other
    return total.float()
