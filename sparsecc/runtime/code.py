"""Generated code that can be called: one specialization of a model, for fixed input shapes."""

from __future__ import annotations

import resource
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsecc.codegen import tvm_api
from sparsecc.codegen.chatter import no_chatter
from sparsecc.errors import ArtifactError, UserError
from sparsecc.files import scratch_folder
from sparsecc.graph.base import TensorSpec

if TYPE_CHECKING:
    from sparsecc.codegen.library import KernelCall, Library
    from sparsecc.graph.binding import Shapes

LINKING_BYTES = 64 << 20  # of temporary space; the largest models make a few MB of code


@dataclass(frozen=True)
class Specialization:
    """inputs: with fixed shapes.  weights: keys into the WeightStore, in the order of main's parameters after the inputs.
    limits, divisors, regions, calls: see `codegen.library`.  program: what `main` is taken from."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    limits: Mapping[str, tuple[int, int]]
    weights: tuple[str, ...]
    program: Program
    divisors: frozenset[str] = frozenset()
    regions: Mapping[str, int] = field(default_factory=dict)
    calls: tuple[KernelCall, ...] = ()

    @property
    def shapes(self) -> Shapes:
        return tuple(tuple(int(size) for size in spec.shape) for spec in self.inputs)

    def call(self, inputs: Sequence[Any], weights: Sequence[Any]) -> list[Any]:
        """The model's outputs as TVM tensors. May be called from several threads at once."""
        result = self.program.main()(*inputs, *weights)
        return [result] if hasattr(result, "shape") else list(result)


@dataclass
class Program:
    """TVM's executable, either just compiled or loaded from a shared object (whose bytes are kept, so that it can be saved again)."""

    executable: Any
    shared_object: bytes | None = None
    _per_thread: threading.local = field(default_factory=threading.local)

    @classmethod
    def from_bytes(cls, shared_object: bytes) -> Program:
        """Load a shared object. Raises ArtifactError when the system's loader or TVM refuses it."""
        with scratch_folder() as folder:
            path = folder / "lib.so"
            path.write_bytes(shared_object)
            try:
                with no_chatter():
                    # by default a module stays mapped for as long as the process lives
                    program = cls(tvm_api.load_module(str(path), keep_module_alive=False), shared_object)
                    program.main()  # reads the whole executable
                return program
            except (RuntimeError, OSError, ValueError) as error:
                raise ArtifactError(f"the compiled code cannot be loaded: {_first_line(error)}") from error

    def main(self) -> Any:
        """The entry point of this thread's own virtual machine. A machine holds registers, so that two threads cannot share one."""
        if not hasattr(self._per_thread, "main"):
            self._per_thread.machine = tvm_api.VirtualMachine(self.executable, tvm_api.cpu())
            self._per_thread.main = self._per_thread.machine["main"]
        return self._per_thread.main

    def watched(self, watch: Callable[..., int]) -> Any:
        """An entry point of its own machine, which calls `watch(function, symbol, before, result, *arguments)` before and after each
        call in the program."""
        machine = tvm_api.VirtualMachine(self.executable, tvm_api.cpu())
        machine.set_instrument(watch)
        return machine["main"]

    def to_bytes(self) -> bytes:
        """The shared object. Raises UserError when it has to be linked and there is no C compiler, or no room for its work."""
        if self.shared_object is None:
            self.shared_object = self._link()
        return self.shared_object

    def _link(self) -> bytes:
        with scratch_folder() as folder:
            _require_room(folder)  # LLVM ends the process when a write fails
            path = folder / "lib.so"
            try:
                with no_chatter():
                    self.executable.export_library(str(path), workspace_dir=str(folder))
            except (RuntimeError, OSError, ValueError, TypeError) as error:
                advice = "install gcc or clang, or name one in the environment variable CC (a cross compiler, for another architecture)"
                raise UserError(f"saving links with a C compiler, which failed ({_first_line(error)}); {advice}") from error
            return path.read_bytes()


def adopt(library: Library, keys: Sequence[str]) -> Specialization:
    """A specialization from codegen's product; keys: where its weights are held, in the library's order."""
    program = Program(library.executable)
    return Specialization(
        library.inputs,
        library.outputs,
        library.limits,
        tuple(keys),
        program,
        divisors=library.divisors,
        regions=library.regions,
        calls=library.calls,
    )


def _require_room(folder: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and limit < LINKING_BYTES:
        raise UserError(f"files may have {limit >> 20} MB here (ulimit -f), linking needs {LINKING_BYTES >> 20}")
    free = shutil.disk_usage(folder).free
    if free < LINKING_BYTES:
        place = f"{folder.parent} has {free >> 20} MB free, linking needs {LINKING_BYTES >> 20}"
        raise UserError(f"{place}; make room, or name another folder in the environment variable TMPDIR")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line and line != "Compilation error:"), type(error).__name__)
