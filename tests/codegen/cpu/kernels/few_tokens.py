"""Specs of a few tokens for kernels with outputs in the vector lanes, and weights for them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from sparsecc.codegen.spec import Epilogue, MatmulSpec, ceil_div
from tests.codegen.cpu.kernels.running import random

SPECS = {
    "one_token": MatmulSpec.linear(96, 128, 1, 1),
    "few_tokens": MatmulSpec.linear(64, 200, 5, 1),
    "ragged_rows": MatmulSpec.linear(37, 100, 1, 1),
    "fewer_rows_than_lanes": MatmulSpec.linear(5, 40, 3, 1),
    "one_output": MatmulSpec.linear(1, 40, 1, 1),
    "one_input": MatmulSpec.linear(40, 1, 1, 1),
    "ragged_inputs": MatmulSpec.linear(33, 139, 2, 1),
    "several_passes": MatmulSpec.linear(20, 50, 19, 1),
    "many_tokens": MatmulSpec.linear(70, 40, 45, 1),
    "residual": MatmulSpec.linear(50, 60, 2, 1, Epilogue(residual=True)),
    "activation_then_residual": MatmulSpec.linear(37, 60, 2, 1, Epilogue("gelu", residual=True)),
    "residual_then_activation": MatmulSpec.linear(7, 60, 3, 1, Epilogue("relu", residual=True, residual_first=True)),
}


@st.composite
def specs(draw: st.DrawFn) -> MatmulSpec:
    epilogue = Epilogue(draw(st.sampled_from([None, "relu", "silu"])), residual := draw(st.booleans()), residual and draw(st.booleans()))
    return MatmulSpec.linear(draw(st.integers(1, 100)), draw(st.integers(1, 150)), draw(st.integers(1, 12)), 1, epilogue)


def dense(spec: MatmulSpec) -> np.ndarray:
    return random(np.random.default_rng(0), spec.rows, spec.depth)


def row_blocks(spec: MatmulSpec, block_rows: int, density: float = 0.5) -> np.ndarray:
    """Blocks of `block_rows` × 1 are kept or dropped whole; some block rows lose everything."""
    keep = np.random.default_rng(1).random((ceil_div(spec.rows, block_rows), spec.depth)) < density
    keep[1::3] = False
    return dense(spec) * np.repeat(keep, block_rows, axis=0)[: spec.rows]


def n_of_four(spec: MatmulSpec, keep: int) -> np.ndarray:
    """At most `keep` of every four inputs of a row; fewer where the inputs end within a group."""
    order = np.argsort(np.random.default_rng(1).random((spec.rows, ceil_div(spec.depth, 4), 4)), axis=2)
    return dense(spec) * (order < keep).reshape(spec.rows, -1)[:, : spec.depth]
