"""A backend is a folder beside this file with a `backend.py` that ends in `BACKEND`; targets name theirs."""

from __future__ import annotations

import functools
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol

import numpy as np

from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.library import KernelCall
from sparsecc.codegen.target import T, Target
from sparsecc.errors import ModelError, UserError

if TYPE_CHECKING:
    from sparsecc.codegen.calls import Tape, Way
    from sparsecc.codegen.choose import Chooser
    from sparsecc.codegen.numbers import Numbers
    from sparsecc.codegen.recognize.program import Layer, Program
    from sparsecc.codegen.spec import MatmulSpec
    from sparsecc.codegen.task import Task


class UnnamedError(ModelError):
    """Says what the compiler cannot do, and not yet with which operator."""


@dataclass(frozen=True)
class Emitted:
    """module: Relax, whose `main(*inputs, *weights)` returns a tuple of the outputs.  weights: by name, in the order of main's.
    calls: of our kernels, in their order."""

    module: Any
    weights: dict[str, np.ndarray]
    calls: tuple[KernelCall, ...] = ()


class Recorded(Protocol):
    """What a backend's measurements are of, for the records."""

    @property
    def task(self) -> type[Any]:
        """A frozen dataclass with a field `kernel`."""
        ...

    def knobs(self, kernel: str) -> type[Any] | None:
        """The type of a kernel's knobs. None for one that this version has not."""
        ...

    def version(self, kernel: str) -> str:
        """Changes when the code that it generates may have."""
        ...

    def holds_for(self, target: Any, measured: Any) -> bool:
        """Whether what was measured for one target says what is fast on another."""
        ...


class Backend(ABC, Generic[T]):
    """target: the type of its targets.  spellings: how users name them.  recorded: None where there is nothing to choose.

    One that is no `WholeBackend` leaves the graph to its host, and makes kernels for single layers."""

    target: type[T]
    spellings: ClassVar[tuple[str, ...]]
    recorded: ClassVar[Recorded | None] = None

    @abstractmethod
    def parse(self, text: str, threads: int) -> T:
        """The target that a user means by `text`, whose first word is the backend's name. Raises UserError for one that is not there."""


class WholeBackend(Backend[T]):
    """One that compiles the whole graph."""

    @abstractmethod
    def emit(self, program: Program, chooser: Chooser[T]) -> Emitted:
        """A recognized program as a module of the backend's kernels; the chooser is asked for each layer that has a choice."""

    @abstractmethod
    def compile(self, emitted: Emitted, target: T, dump: Path | None = None) -> Any:
        """TVM's executable, see `library.Library`.  dump: a folder for what is generated.

        Raises UnnamedError for what cannot be compiled."""


class TunableBackend(WholeBackend[T]):
    """One with kernels to choose between, see `kernel.kernels`, and a machine to time them on."""

    @abstractmethod
    def inside(self, kernel: str, spec: MatmulSpec, target: T) -> MatmulSpec:
        """The spec with X and Y as the kernel has them."""

    @abstractmethod
    def plan(self, task: Task, knobs: Knobs, weight: Numbers, bias: np.ndarray | None, target: T) -> Way:
        """A task on its kernel with these knobs."""

    @abstractmethod
    def factored(self, layer: Layer, spec: MatmulSpec, target: T) -> Sequence[Factored]:
        """The ways to run a structured layer factor by factor; the first guess first."""

    @abstractmethod
    def tape(self, target: T, functions: dict[Any, Any]) -> Tape:
        """functions: compiled kernels by key, which the tape looks in and adds to."""

    @abstractmethod
    def timed(self, target: T, calls: Sequence[Callable[[], None]], seconds: float) -> list[float]:
        """Median µs of each, taken in turns."""

    @abstractmethod
    def serve(self, target: T, answer: Callable[[], Any]) -> Any:
        """What `answer` gives, called where the target's threads are."""

    @abstractmethod
    def bound_us(self, ops: float, moved_bytes: float, dtype: str, target: T) -> float:
        """The least that a kernel can take on this machine, by peak and bandwidth."""

    @abstractmethod
    def features(self, task: Task, knobs: Knobs, target: T) -> list[float]:
        """A candidate as numbers for the cost model: as many, and in the same order, for all candidates of one kernel."""


@dataclass(frozen=True)
class Factored:
    """timed: the way without a residual.  flops, weight_bytes: of what it computes and reads.  dense_flops: of the product in its place."""

    way: Way
    timed: Way
    flops: int
    weight_bytes: int
    dense_flops: int


def names() -> list[str]:
    """Of all backends."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/backend.py"))


@functools.cache
def named(name: str) -> Backend[Any]:
    return importlib.import_module(f"sparsecc.codegen.{name}.backend").BACKEND


def backend_of(target: T) -> Backend[T]:
    return named(target.backend)


def whole(target: T) -> WholeBackend[T]:
    """Raises UserError for a backend that leaves the graph to its host."""
    backend = backend_of(target)
    if not isinstance(backend, WholeBackend):
        raise UserError(f"target {target.backend!r} compiles no whole graphs")
    return backend


def tunable(target: T) -> TunableBackend[T]:
    """Raises UserError for a backend in which there is nothing to choose."""
    backend = backend_of(target)
    if not isinstance(backend, TunableBackend):
        raise _no_choice(target.backend)
    return backend


def recorded(target: Target) -> Recorded:
    """Raises UserError for a backend in which there is nothing to choose."""
    found = backend_of(target).recorded
    if found is None:
        raise _no_choice(target.backend)
    return found


def _no_choice(backend: str) -> UserError:
    return UserError(f"target {backend!r} has no kernels to choose between, so that there is nothing to tune")


def parse(text: str, threads: int) -> Target:
    """The target that a user names. Raises UserError for anything else."""
    kind = text.partition(":")[0]
    if kind not in names():
        known = ", ".join(spelling for name in names() for spelling in named(name).spellings)
        raise UserError(f"target {text!r} is not known; there are: {known}")
    return named(kind).parse(text, threads)
