"""A backend to check others against: each layer in a few operators of Relax, as TVM lowers them by itself.

It has no kernels, no layouts and no choice. It is slow, and what a layer means can be read in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sparsecc.codegen import target as targets
from sparsecc.codegen import tvm_api
from sparsecc.codegen.backend import Emitted, UnnamedError, WholeBackend
from sparsecc.codegen.choose import Chooser
from sparsecc.codegen.dump import write_kernels
from sparsecc.codegen.recognize.program import Program
from sparsecc.codegen.reference.emit import emit
from sparsecc.codegen.tvm_api import relax
from sparsecc.errors import UserError

_LLVM = {"kind": "llvm"}  # any CPU of this machine's architecture


@dataclass(frozen=True)
class Target(targets.Target):
    """This machine. Its code runs in one thread, whatever `threads` says."""

    threads: int
    backend: ClassVar[str] = "reference"

    @property
    def name(self) -> str:
        return self.backend

    @property
    def cannot_run(self) -> None:
        return None

    @property
    def is_here(self) -> bool:
        return False  # there is nothing to time


class Reference(WholeBackend[Target]):
    target = Target
    spellings: ClassVar[tuple[str, ...]] = ("reference",)

    def parse(self, text: str, threads: int) -> Target:
        if text != "reference":
            raise UserError(f"target {text!r}: reference takes no name of a machine")
        return Target(threads)

    def emit(self, program: Program, chooser: Chooser[Target]) -> Emitted:
        return emit(program)

    def compile(self, emitted: Emitted, target: Target, dump: Path | None = None) -> Any:
        try:
            with tvm_api.TvmTarget(_LLVM):
                module = relax.transform.LegalizeOps()(emitted.module)
                if dump is not None:
                    write_kernels(module, _LLVM, dump)
                return relax.build(module, tvm_api.TvmTarget(_LLVM))
        except (MemoryError, UserError):
            raise
        except Exception as error:  # TVM raises a dozen kinds, and all of them mean that an operator is used in a way it does not know
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            if type(error) is RuntimeError and not lines:
                raise  # a Ctrl-C while TVM called back into Python, which is no operator's fault
            raise UnnamedError(lines[-1] if lines else type(error).__name__) from error


BACKEND = Reference()
