"""What a layer may run on, for the chooser and the tuner alike: a Task says what is to be computed, a Plan is one way to do it."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from sparsecc.codegen import spec as specs
from sparsecc.codegen import tvm_api
from sparsecc.codegen.cpu.operators import turn_tokens
from sparsecc.codegen.cpu.operators.turn_tokens import TurnSpec
from sparsecc.codegen.cpu.pieces import groups, math, matvec, nm_select
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.numbers import Numbers
from sparsecc.codegen.spec import Epilogue, Knobs, MatmulSpec

_WASTE = 1.1  # stored values per nonzero up to which rows are grouped into blocks
_INDEX_BYTES = 2.0  # of a stored block or group


@dataclass(frozen=True)
class Structure:
    """What about a weight's zeros decides how long a sparse kernel takes, rounded so that layers pruned alike are one case.

    block_rows: see `common_rows`; 1 for groups and N:M.  density: stored blocks' share of all, two significant digits.
    unevenness: standard deviation over mean of blocks per row of blocks, in quarters.
    """

    block_rows: int
    density: float
    unevenness: float

    @staticmethod
    def of(matrix: np.ndarray, dtype: str = "float32") -> Structure:
        """Of what a kernel for this number format and many tokens stores: blocks of rows, or groups of inputs."""
        if dtype != "float32":
            return Structure.of_blocks(groups.grouped(matrix, 1, dtype) != 0, 1)
        return Structure.of_blocks(matrix != 0, common_rows(matrix))

    @staticmethod
    def of_blocks(nonzero: np.ndarray, rows: int) -> Structure:
        """Of a mask whose blocks of `rows` × 1 are stored where they hold anything; the last ones may overlap those before."""
        per_row = matvec.in_blocks(nonzero, rows).reshape(-1, rows, nonzero.shape[1]).any(axis=1).sum(axis=1)
        mean = float(per_row.mean())
        uneven = round(4 * float(per_row.std()) / mean) / 4 if mean else 0.0
        return Structure(rows, float(f"{mean / nonzero.shape[1]:.2g}"), uneven)


@dataclass(frozen=True)
class Kernel:
    """What is to be known about a kernel beside its functions.

    bias: its place in what `prepare` returns.  dtypes: of what it multiplies.  few: takes few tokens as they are (`MatmulSpec.few`).
    structure: of a matrix as a sparse kernel stores it, None where it cannot; without, zeros are nothing special to the kernel.
    zeros: what `space` is told about them.  index_bytes: that are read for each stored weight.
    """

    bias: int
    dtypes: tuple[str, ...] = ("float32",)
    few: bool = False
    structure: Callable[[np.ndarray, str, Target], Structure | None] | None = None
    zeros: Callable[[Structure], tuple[float, ...]] = lambda _: ()
    index_bytes: Callable[[Structure, str], float] = lambda *_: 0.0

    @property
    def narrow(self) -> bool:
        """Whether X are groups of narrow numbers."""
        return "float32" not in self.dtypes


def _blocks_of_vectors(matrix: np.ndarray, _: str, target: Target) -> Structure:
    """The highest blocks of whole vectors that the zeros form, else blocks of one vector, of which any zeros may leave some out."""
    heights = [vectors * target.lanes for vectors in (4, 2, 1)]
    return Structure.of_blocks(matrix != 0, max(common_rows(matrix, heights), target.lanes))


def _of_four(matrix: np.ndarray, *_: Any) -> Structure | None:
    kept = nm_select.kept(matrix)
    return Structure(1, kept / nm_select.GROUP, 0.0) if kept < nm_select.GROUP else None


def _index_of_blocks(structure: Structure, _: str) -> float:
    return _INDEX_BYTES / structure.block_rows


_N_OF_FOUR: dict[str, Any] = {
    "few": True,
    "structure": _of_four,
    "zeros": lambda structure: (round(structure.density * nm_select.GROUP),),
    "index_bytes": lambda *_: 0.25,
}
_NARROW = ("int8", "bfloat16")

KERNELS = {
    "dense_matmul": Kernel(1),
    "dense_matvec": Kernel(1, few=True),
    "dense_group_matmul": Kernel(3, _NARROW),
    "dense_group_matvec": Kernel(3, _NARROW, few=True),
    "row_block_spmm": Kernel(
        4,
        structure=lambda matrix, dtype, _: Structure.of(matrix, dtype),
        zeros=lambda structure: (structure.block_rows, structure.density),
        index_bytes=_index_of_blocks,
    ),
    "row_block_matvec": Kernel(
        4, few=True, structure=_blocks_of_vectors, zeros=lambda structure: (structure.block_rows,), index_bytes=_index_of_blocks
    ),
    "nm_matvec": Kernel(2, **_N_OF_FOUR),
    "sparse_group_matmul": Kernel(
        7,
        _NARROW,
        structure=lambda matrix, dtype, _: Structure.of(matrix, dtype),
        zeros=lambda structure: (structure.density,),
        index_bytes=lambda _, dtype: _INDEX_BYTES / groups.SIZE[dtype],
    ),
    "nm_group_matvec": Kernel(4, ("int8",), **_N_OF_FOUR),
}


@dataclass(frozen=True)
class Task:
    """A kernel, by the name of its file, for one spec.  structure: of the weight, None for a kernel to which zeros are nothing special."""

    kernel: str
    spec: MatmulSpec
    structure: Structure | None = None

    @property
    def module(self) -> ModuleType:
        return _module(self.kernel)

    @property
    def weight_bytes(self) -> float:
        """Of the weight and its indices as the kernel reads them, by the structure."""
        density, index = 1.0, 0.0
        if self.structure is not None:
            density, index = self.structure.density, KERNELS[self.kernel].index_bytes(self.structure, self.spec.dtype)
        return self.spec.rows * self.spec.depth * density * (4 / groups.SIZE[self.spec.dtype] + index)

    @property
    def ops(self) -> float:
        """Multiplications and additions of what is stored."""
        return self.spec.flops * (self.structure.density if self.structure else 1.0)

    @property
    def moved_bytes(self) -> float:
        """Of weights, inputs and outputs, each once."""
        return self.weight_bytes + 4 * (prod(self.spec.x_shape) + prod(self.spec.y_shape))

    def space(self, target: Target) -> list[Knobs]:
        """First guess first."""
        zeros = () if self.structure is None else KERNELS[self.kernel].zeros(self.structure)
        return list(self.module.space(inside(self.kernel, self.spec, target), *zeros, target))

    def plan(self, knobs: Knobs, weight: Numbers, bias: np.ndarray | None, target: Target) -> Plan:
        narrow = (weight.scales, target) if KERNELS[self.kernel].narrow else ()
        return Plan(
            self.kernel, knobs, self.module.prepare(weight.matrix, bias, inside(self.kernel, self.spec, target), knobs, *narrow), target
        )

    def __str__(self) -> str:
        spec = self.spec
        taps = f" × {len(spec.taps)} taps" if len(spec.taps) > 1 else ""
        zeros = f" {1 - self.structure.density:.0%} zeros by {self.structure.block_rows}x1" if self.structure else ""
        then = f" {spec.epilogue.activation}" if spec.epilogue.activation else ""
        dtype = f" {spec.dtype}" if KERNELS[self.kernel].narrow else ""
        return f"{self.kernel}{dtype} {spec.rows}×{spec.channels}{taps} on {spec.batch}×{spec.positions}{zeros}{then}"


@dataclass(frozen=True)
class Plan:
    """A kernel, its knobs, and the weights as it reads them; what it computes may have any epilogue."""

    kernel: str
    knobs: Knobs
    weights: list[np.ndarray]
    target: Target

    def __str__(self) -> str:
        k = self.knobs
        return f"{self.kernel} {k.rows}x{k.tile} panel={k.panel} groups={k.groups}"

    def inside(self, spec: MatmulSpec) -> MatmulSpec:
        return inside(self.kernel, spec, self.target)

    def build(self, spec: MatmulSpec) -> Any:
        """PrimFunc of the kernel, for X and Y as `inside` has them."""
        return _module(self.kernel).build(self.inside(spec), self.knobs, self.target)

    def compile(self, spec: MatmulSpec) -> Callable[..., None]:
        """For X and Y as `spec`, a bare one, has them."""
        function = tvm_api.compile_function(self.build(spec), self.target.llvm)
        return between_turns(function, spec, self.inside(spec), self.target)

    def arguments(self, x: Sequence[Any], weights: Sequence[Any], residual: Any | None) -> list[Any]:
        """What the kernel is called with before its output.  x: float32, or groups of narrow numbers and their scales where they have
        some.  weights: those of the plan, in whatever form.  residual: None where there is none, and the bias stands in its place."""
        bias = weights[KERNELS[self.kernel].bias]
        scales = [bias] if KERNELS[self.kernel].narrow and len(x) == 1 else []
        return [*x, *scales, *weights, bias if residual is None else residual]

    def call(self, function: Callable[..., None], spec: MatmulSpec) -> tuple[Callable[[], None], Any]:
        """A call of what `compile` returns on random inputs, and the tensor that it writes. spec: a bare one."""
        random = np.random.default_rng(0).standard_normal((spec.batch, spec.channels, spec.channel_stride), np.float32)
        inputs = groups.group_array(random, spec.dtype, self.target) if KERNELS[self.kernel].narrow else (random,)
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


def inside(kernel: str, spec: MatmulSpec, target: Target) -> MatmulSpec:
    """The spec with X and Y as the kernel has them: few tokens lie in a tile for kernels that know nothing else."""
    return spec.in_tile(target.lanes) if spec.few and not KERNELS[kernel].few else spec


def between_turns(function: Callable[..., None], spec: MatmulSpec, within: MatmulSpec, target: Target) -> Callable[..., None]:
    """A kernel for X and Y of `within` as one for those of `spec`, with turns of tokens before and after it where these differ."""
    if within is spec:
        return function
    arrays: list[tuple[tuple[int, ...], str]] = [(spec.x_shape, "float32" if spec.dtype == "float32" else "int32")]
    if spec.dtype == "int8":
        arrays.append(((spec.batch, 1), "float32"))
    turns = [TurnSpec(shape[0], shape[1:-1], within.positions, dtype) for shape, dtype in arrays]
    into = [tvm_api.compile_function(turn_tokens.build(turn, target), target.llvm) for turn in turns]
    back = tvm_api.compile_function(turn_tokens.build(TurnSpec(spec.batch, (spec.rows,), within.positions, back=True), target), target.llvm)
    x = [tvm_api.tensor(np.zeros(turn.shapes[1], turn.dtype)) for turn in turns]
    y = tvm_api.tensor(np.zeros(within.y_shape, np.float32))

    def run(*arguments: Any) -> None:
        for turn, given, turned in zip(into, arguments, x, strict=False):
            turn(given, turned)
        function(*x, *arguments[len(x) : -1], y)
        back(y, arguments[-1])

    return run


def common_rows(matrix: np.ndarray, heights: Sequence[int] = (4, 2)) -> int:
    """How many neighbouring rows, the first of `heights` or 1, share their nonzero columns, whatever the format calls it."""
    nonzero = matrix != 0
    total = int(nonzero.sum())
    for rows in heights:
        if len(matrix) % rows == 0 and nonzero.reshape(-1, rows, matrix.shape[1]).any(axis=1).sum() * rows <= _WASTE * total:
            return rows
    return 1


@functools.cache
def version(kernel: str) -> str:
    """Changes when the code that a kernel generates may have: a digest of its source and of what it uses of other kernels' files, without
    comments and without `space`."""
    digest = hashlib.sha256()
    for source in (*_used(_module(kernel)), specs, groups, math):
        tree = ast.parse(inspect.getsource(source))
        tree.body = [node for node in tree.body if not (isinstance(node, ast.FunctionDef) and node.name == "space")]
        digest.update(ast.unparse(tree).encode())
    return digest.hexdigest()[:16]


def _used(module: ModuleType) -> list[ModuleType]:
    """The module, and those of other kernels that it imports by name."""
    found = {module.__name__: module}
    for value in vars(module).values():
        if isinstance(value, ModuleType) and value.__name__.startswith("sparsecc.codegen.cpu."):
            found[value.__name__] = value
    return list(found.values())


def _module(kernel: str) -> ModuleType:
    return importlib.import_module(f"sparsecc.codegen.cpu.kernels.{kernel}")
