"""Picks a kernel for each layer: where the weight has zeros, sparse and dense run in turns on the target and the faster stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sparsecc.codegen import tvm_api
from sparsecc.codegen.kernels import dense_matmul, row_block_spmm
from sparsecc.codegen.kernels.base import Epilogue, Knobs, MatmulSpec
from sparsecc.codegen.target import Target
from sparsecc.codegen.threads import use_threads
from sparsecc.timing import interleave

if TYPE_CHECKING:
    from sparsecc.codegen.lower.program import Layer

_WASTE = 1.1  # stored values per nonzero up to which rows are grouped into blocks
_SECONDS = 0.12  # for the turns of one site


@dataclass(frozen=True)
class Choice:
    """What was decided for a packed site. Times in µs, None when nothing was measured.

    predicted_us: the dense time times the share of multiply-adds that the sparse kernel does: its time at the dense kernel's efficiency.
    """

    site: str
    kernel: str
    decision: Literal["sparse", "dense"]
    measured_us: float | None
    dense_us: float | None
    predicted_us: float | None
    reason: str


@dataclass(frozen=True)
class Plan:
    """A kernel, its knobs, and the weights as it reads them; `weights[bias_index]` is the padded bias."""

    kernel: str
    knobs: Knobs
    weights: list[np.ndarray]
    bias_index: int
    build: Callable[[MatmulSpec], Any]

    def __str__(self) -> str:
        k = self.knobs
        return f"{self.kernel} {k.rows}x{k.tile} panel={k.panel} groups={k.groups}"


@dataclass
class Chooser:
    """measure: time on this machine; otherwise (another CPU is the target) what is stored sparse runs sparse.

    One chooser serves one compilation; `choices` collects what it decided, in the order of the layers.
    """

    target: Target
    measure: bool = True
    choices: list[Choice] = field(default_factory=list)
    _functions: dict[Any, Any] = field(default_factory=dict)

    def choose(self, spec: MatmulSpec, layer: Layer) -> Plan:
        matrix = layer.matrix
        if layer.site is None:
            return self._dense(spec, matrix, layer.bias)
        sparse = self._sparse(spec, matrix, layer.bias)
        if not self.measure:
            self.choices.append(Choice(layer.site, str(sparse), "sparse", None, None, None, "not measured: the target is not this machine"))
            return sparse
        dense = self._dense(spec, matrix, layer.bias)
        sparse_us, dense_us = self._turns(spec, sparse, dense)
        faster = sparse_us < dense_us
        reason = f"{dense_us / sparse_us:.2f}x as fast as dense" if faster else f"dense is {sparse_us / dense_us:.2f}x as fast"
        chosen = sparse if faster else dense
        predicted_us = dense_us * sparse.weights[0].size / dense.weights[0].size
        self.choices.append(
            Choice(layer.site, str(chosen), "sparse" if faster else "dense", min(sparse_us, dense_us), dense_us, predicted_us, reason)
        )
        return chosen

    def _dense(self, spec: MatmulSpec, matrix: np.ndarray, bias: np.ndarray | None) -> Plan:
        knobs = dense_matmul.space(spec, self.target)[0]
        weights = dense_matmul.prepare(matrix, bias, spec, knobs)
        return Plan("dense_matmul", knobs, weights, 1, lambda full: dense_matmul.build(full, knobs, self.target))

    def _sparse(self, spec: MatmulSpec, matrix: np.ndarray, bias: np.ndarray | None) -> Plan:
        knobs = row_block_spmm.space(spec, common_rows(matrix), self.target)[0]
        weights = row_block_spmm.prepare(matrix, bias, spec, knobs)
        return Plan("row_block_spmm", knobs, weights, 4, lambda full: row_block_spmm.build(full, knobs, self.target))

    def _turns(self, spec: MatmulSpec, *plans: Plan) -> list[float]:
        """Median µs of each plan, in turns, on random inputs and without the residual (it costs both the same)."""
        use_threads(self.target.threads)
        bare = replace(spec, epilogue=Epilogue(spec.epilogue.activation))
        x = tvm_api.tensor(np.random.default_rng(0).standard_normal(spec.x_shape, np.float32))
        y = tvm_api.tensor(np.zeros(spec.y_shape, np.float32))
        calls = {}
        for index, plan in enumerate(plans):
            weights = [tvm_api.tensor(array) for array in plan.weights]
            arguments = [x, *weights, weights[plan.bias_index], y]
            calls[str(index)] = _caller(self._function(plan, bare), arguments)
        timings = interleave(calls, seconds=_SECONDS, rounds=9)
        return [1e3 * timings[name].spread_ms.median for name in calls]

    def _function(self, plan: Plan, spec: MatmulSpec) -> Callable[..., None]:
        key = (plan.kernel, plan.knobs, spec)
        if key not in self._functions:
            func = plan.build(spec).with_attr("global_symbol", "main")
            self._functions[key] = tvm_api.compile_module(tvm_api.IRModule({"main": func}), self.target.llvm)["main"]
        return self._functions[key]


def _caller(function: Callable[..., None], arguments: list[Any]) -> Callable[[], None]:
    return lambda: function(*arguments)


def common_rows(matrix: np.ndarray) -> int:
    """How many neighbouring rows (4, 2 or 1) share their nonzero columns, whatever the format calls it."""
    nonzero = matrix != 0
    total = int(nonzero.sum())
    for rows in (4, 2):
        if len(matrix) % rows == 0 and nonzero.reshape(-1, rows, matrix.shape[1]).any(axis=1).sum() * rows <= _WASTE * total:
            return rows
    return 1
