"""What a layer may run on, for the chooser and the tuner alike: a Task says what is to be computed, a Plan is one way to do it."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from sparsecc.codegen import tvm_api
from sparsecc.codegen.kernels import base, groups, math
from sparsecc.codegen.kernels.base import Epilogue, Knobs, MatmulSpec
from sparsecc.codegen.numbers import Numbers
from sparsecc.codegen.target import Target

_BIAS = {"dense_matmul": 1, "row_block_spmm": 4, "dense_group_matmul": 3, "sparse_group_matmul": 6}  # its place in what `prepare` returns
_NARROW = {"dense_group_matmul", "sparse_group_matmul"}  # kernels of groups of narrow numbers
_WASTE = 1.1  # stored values per nonzero up to which rows are grouped into blocks


@dataclass(frozen=True)
class Structure:
    """What about a weight's zeros decides how long a sparse kernel takes, rounded so that layers pruned alike are one case.

    block_rows: see `common_rows`; 1 for groups.  density: stored blocks' share of all, two significant digits.
    unevenness: standard deviation over mean of blocks per row of blocks, in quarters.
    """

    block_rows: int
    density: float
    unevenness: float

    @staticmethod
    def of(matrix: np.ndarray, dtype: str = "float32") -> Structure:
        """Of what a kernel for this number format stores: blocks of rows, or groups of inputs."""
        if dtype != "float32":
            nonzero, rows = groups.grouped(matrix, 1, dtype) != 0, 1
        else:
            nonzero, rows = matrix != 0, common_rows(matrix)
        per_row = nonzero.reshape(-1, rows, nonzero.shape[1]).any(axis=1).sum(axis=1)
        mean = float(per_row.mean())
        uneven = round(4 * float(per_row.std()) / mean) / 4 if mean else 0.0
        return Structure(rows, float(f"{mean / nonzero.shape[1]:.2g}"), uneven)


@dataclass(frozen=True)
class Task:
    """A kernel, by the name of its file, for one spec.  structure: of the weight, None for a kernel to which zeros are nothing special."""

    kernel: str
    spec: MatmulSpec
    structure: Structure | None = None

    @property
    def module(self) -> ModuleType:
        return importlib.import_module(f"sparsecc.codegen.kernels.{self.kernel}")

    def space(self, target: Target) -> list[Knobs]:
        """First guess first."""
        zeros = () if self.structure is None or self.kernel in _NARROW else (self.structure.block_rows,)
        return list(self.module.space(self.spec, *zeros, target))

    def plan(self, knobs: Knobs, weight: Numbers, bias: np.ndarray | None, target: Target) -> Plan:
        narrow = (weight.scales, target) if self.kernel in _NARROW else ()
        weights = self.module.prepare(weight.matrix, bias, self.spec, knobs, *narrow)
        return Plan(self.kernel, knobs, weights, _BIAS[self.kernel], lambda full: self.module.build(full, knobs, target), target)

    def __str__(self) -> str:
        spec = self.spec
        taps = f" × {len(spec.taps)} taps" if len(spec.taps) > 1 else ""
        zeros = f" {1 - self.structure.density:.0%} zeros by {self.structure.block_rows}x1" if self.structure else ""
        then = f" {spec.epilogue.activation}" if spec.epilogue.activation else ""
        dtype = f" {spec.dtype}" if self.kernel in _NARROW else ""
        return f"{self.kernel}{dtype} {spec.rows}×{spec.channels}{taps} on {spec.batch}×{spec.positions}{zeros}{then}"


@dataclass(frozen=True)
class Plan:
    """A kernel, its knobs, and the weights as it reads them; `weights[bias_index]` is the padded bias."""

    kernel: str
    knobs: Knobs
    weights: list[np.ndarray]
    bias_index: int
    build: Callable[[MatmulSpec], Any]
    target: Target

    def __str__(self) -> str:
        k = self.knobs
        return f"{self.kernel} {k.rows}x{k.tile} panel={k.panel} groups={k.groups}"

    def compile(self, spec: MatmulSpec) -> Callable[..., None]:
        return tvm_api.compile_function(self.build(spec), self.target.llvm)

    def arguments(self, x: Sequence[Any], weights: Sequence[Any], residual: Any | None) -> list[Any]:
        """What the kernel is called with before its output.  x: float32, or groups of narrow numbers and their scales where they have
        some.  weights: those of the plan, in whatever form.  residual: None where there is none, and the bias stands in its place."""
        bias = weights[self.bias_index]
        scales = [bias] if self.kernel in _NARROW and len(x) == 1 else []
        return [*x, *scales, *weights, bias if residual is None else residual]

    def call(self, function: Callable[..., None], spec: MatmulSpec) -> tuple[Callable[[], None], Any]:
        """A call of the compiled kernel on random inputs, and the tensor that it writes. spec: a bare one."""
        random = np.random.default_rng(0).standard_normal((spec.batch, spec.channels, spec.channel_stride), np.float32)
        inputs = groups.group_array(random, spec.dtype, self.target) if self.kernel in _NARROW else (random,)
        x = [tvm_api.tensor(array) for array in inputs if array is not None]
        y = tvm_api.tensor(np.zeros(spec.y_shape, np.float32))
        arguments = [*self.arguments(x, [tvm_api.tensor(array) for array in self.weights], None), y]
        return lambda: function(*arguments), y


@dataclass(frozen=True)
class Known:
    """The fastest knobs that were measured for a task."""

    knobs: Knobs
    us: float


def bare(spec: MatmulSpec) -> MatmulSpec:
    """As it is timed: without the residual, which costs every kernel the same."""
    return replace(spec, epilogue=Epilogue(spec.epilogue.activation))


def common_rows(matrix: np.ndarray) -> int:
    """How many neighbouring rows (4, 2 or 1) share their nonzero columns, whatever the format calls it."""
    nonzero = matrix != 0
    total = int(nonzero.sum())
    for rows in (4, 2):
        if len(matrix) % rows == 0 and nonzero.reshape(-1, rows, matrix.shape[1]).any(axis=1).sum() * rows <= _WASTE * total:
            return rows
    return 1


@functools.cache
def version(kernel: str) -> str:
    """Changes when the code that a kernel generates may have: a digest of its source without comments and without `space`."""
    module = importlib.import_module(f"sparsecc.codegen.kernels.{kernel}")
    digest = hashlib.sha256()
    for source in (module, base, groups, math):
        tree = ast.parse(inspect.getsource(source))
        tree.body = [node for node in tree.body if not (isinstance(node, ast.FunctionDef) and node.name == "space")]
        digest.update(ast.unparse(tree).encode())
    return digest.hexdigest()[:16]
