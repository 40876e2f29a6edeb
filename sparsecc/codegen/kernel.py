"""Kernels of matrix products: each is a file that ends in its row, `KERNEL`, and is found by its folder, `codegen/BACKEND/kernels`."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from sparsecc import registry
from sparsecc.codegen import spec
from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.zeros import ZeroProfile


@dataclass(frozen=True)
class Kernel:
    """What is to be known about a kernel.

    space(spec, *told, target): the knobs to choose from, the best guess first.  knobs: their type.
    prepare(matrix, bias, spec, knobs): the weights as the kernel reads them; one for narrow numbers gets their scales and the target, too.
    build(spec, knobs, target): TensorIR.
    bias: its place in what `prepare` returns.  dtypes: of what it multiplies.  few: takes few tokens as they are (`MatmulSpec.few`).
    structure: of a matrix as a sparse kernel stores it, None where it cannot; without, zeros are nothing special to the kernel.
    zeros: what `space` is told about them.  index_bytes: that are read for each stored weight.
    """

    space: Callable[..., list[Any]]
    prepare: Callable[..., list[np.ndarray]]
    build: Callable[..., Any]
    knobs: type[Knobs]
    bias: int
    dtypes: tuple[str, ...] = ("float32",)
    few: bool = False
    structure: Callable[[np.ndarray, str, Any], ZeroProfile | None] | None = None
    zeros: Callable[[ZeroProfile], tuple[float, ...]] = lambda _: ()
    index_bytes: Callable[[ZeroProfile, str], float] = lambda *_: 0.0

    @property
    def narrow(self) -> bool:
        """Whether X are groups of narrow numbers."""
        return "float32" not in self.dtypes


@functools.cache
def kernels(backend: str) -> dict[str, Kernel]:
    """Those of a backend by the names of their files; none of a backend that has no folder for them."""
    family = f"codegen.{backend}.kernels"
    return {name: registry.load(family, name).KERNEL for name in registry.members(family)}


@functools.cache
def version(backend: str, kernel: str) -> str:
    """Changes when the code that a kernel generates may have: a digest of its source and of the files that it uses, without comments and
    without `space`."""
    digest = hashlib.sha256()
    for module in _used(registry.load(f"codegen.{backend}.kernels", kernel), f"sparsecc.codegen.{backend}."):
        tree = ast.parse(inspect.getsource(module))
        tree.body = [node for node in tree.body if not (isinstance(node, ast.FunctionDef) and node.name == "space")]
        digest.update(ast.unparse(tree).encode())
    return digest.hexdigest()[:16]


def _used(module: ModuleType, backend: str) -> list[ModuleType]:
    """The module, those kernels and pieces of its backend that it imports anything of, those that they import, and what specs are."""
    found, waiting = {module.__name__: module}, [module]
    while waiting:
        for name in _homes(waiting.pop()):
            if name not in found and name.startswith((f"{backend}kernels.", f"{backend}pieces.")):
                found[name] = sys.modules[name]
                waiting.append(found[name])
    return [*(found[name] for name in sorted(found)), spec]


def _homes(module: ModuleType) -> Iterator[str]:
    """Names of the modules that a module has something of."""
    for value in vars(module).values():
        yield value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None) or ""
