"""Every operator without a kernel of its own: vectors and threads where they pay, the right result at any size."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.codegen import tvm_api
from sparsecc.codegen.cpu.schedules import generic
from sparsecc.codegen.tvm_api import relax
from tests.codegen.cpu.kernels.running import HERE, assembly
from tests.codegen.whole import Case, compare, random
from tests.tolerance import assert_close

Op = Callable[..., Any]


def legalized(op: Op, *shapes: tuple[int, ...]) -> Any:
    """The PrimFunc that TVM makes of one operator."""
    builder = tvm_api.BlockBuilder()
    inputs = [relax.Var(f"x{i}", relax.TensorType(list(shape), "float32")) for i, shape in enumerate(shapes)]
    with builder.function("main", inputs):
        builder.emit_func_output(builder.emit(op(*inputs)))
    module = relax.transform.LegalizeOps()(builder.get())
    [func] = [f for f in module.functions.values() if isinstance(f, tvm_api.PrimFunc)]
    return func.with_attr("global_symbol", "main")


def scheduled(op: Op, *shapes: tuple[int, ...]) -> Any:
    return generic.schedule(legalized(op, *shapes), HERE)


LARGE: dict[str, tuple[Any, ...]] = {
    "add": (relax.op.add, (64, 256), (64, 256)),
    "add a row": (relax.op.add, (64, 256), (256,)),
    "one axis": (relax.op.nn.relu, (1 << 14,)),
    "transpose": (lambda x: relax.op.permute_dims(x, [0, 2, 1]), (2, 64, 128)),
    "concatenation": (lambda x, y: relax.op.concat([x, y], 1), (64, 128), (64, 128)),
    "pad": (lambda x: relax.op.nn.pad(x, [0, 0, 8, 8]), (64, 256)),
    "max pool": (lambda x: relax.op.nn.max_pool2d(x, (2, 2), (2, 2)), (1, 16, 64, 64)),
    "sum of rows": (lambda x: relax.op.sum(x, 0), (128, 256)),
    "softmax": (lambda x: relax.op.nn.softmax(x, 1), (64, 256, 16)),
    "matmul": (relax.op.matmul, (4, 32, 64), (4, 64, 32)),
    "depthwise": (lambda x, w: relax.op.nn.conv2d(x, w, padding=1, groups=16), (1, 16, 32, 32), (16, 1, 3, 3)),
    "upsampling": (lambda x: relax.op.image.resize2d(x, (32, 32), layout="NCHW", method="linear"), (1, 16, 16, 16)),
}


@pytest.mark.parametrize("name", LARGE)
def test_every_large_operator_runs_in_parallel_and_in_vectors(name: str) -> None:
    op, *shapes = LARGE[name]
    text = str(scheduled(op, *shapes))
    assert "T.parallel(" in text
    assert "T.vectorized(" in text


@pytest.mark.parametrize("name", ["add", "matmul", "depthwise"])
def test_vectors_have_the_width_of_the_target(name: str) -> None:
    op, *shapes = LARGE[name]
    assert ("zmm" if HERE.vector_bits == 512 else "ymm" if HERE.vector_bits == 256 else "mm") in assembly(scheduled(op, *shapes), HERE)


def test_small_work_wakes_no_threads() -> None:
    text = str(scheduled(relax.op.add, (4, 64), (4, 64)))
    assert "T.parallel(" not in text
    assert "T.vectorized(" in text


def test_sums_stay_in_registers() -> None:
    """The accumulator of a reduction is a local buffer, not the output."""
    assert "local" in str(scheduled(relax.op.matmul, (4, 32, 64), (4, 64, 32)))


def test_cheap_steps_are_inlined_and_expensive_ones_are_not_repeated() -> None:
    """Softmax subtracts where it divides, but computes each exponential once."""
    text = str(scheduled(lambda x: relax.op.nn.softmax(x, 1), (64, 256)))
    assert text.count("T.exp(") == 1


def test_the_same_schedule_every_time() -> None:
    op, *shapes = LARGE["softmax"]
    assert str(scheduled(op, *shapes)) == str(scheduled(op, *shapes))


def test_generated_kernels_are_left_alone() -> None:
    func = legalized(relax.op.add, (4, 4), (4, 4))
    assert not generic.known_elsewhere(func)
    assert generic.known_elsewhere(func.with_attr("tirx.is_scheduled", 1))


ODD: dict[str, Case] = {
    f"{name} {shape}": (function, (random(*shape),))
    for shape in ((1, 1, 1), (3, 17, 5), (2, 33, 37), (1, 130, 129))
    for name, function in {
        "elementwise": lambda x: x.sin() * 2 + x,
        "rows": lambda x: x.sum(-1),
        "columns": lambda x: x.amax(1),
        "all": lambda x: x.sum(),
        "softmax": lambda x: x.softmax(1),
        "turned": lambda x: x.transpose(1, 2).exp(),
        "cumulated": lambda x: x.cumsum(1),
        "product": lambda x: x @ x.transpose(1, 2),
        "padded": lambda x: functional.pad(x, (1, 2, 0, 3)),
        "joined": lambda x: torch.cat([x, x[:, :1]], 1),
        "sorted": lambda x: x.sort(2)[0],
    }.items()
}


@cache
def results() -> dict[str, list[tuple[Tensor, Tensor]]]:
    return compare(ODD)


@pytest.mark.parametrize("name", ODD)
def test_odd_sizes(name: str) -> None:
    for compiled, oracle in results()[name]:
        assert_close(compiled, oracle)
        assert np.isfinite(compiled.numpy()).all()
