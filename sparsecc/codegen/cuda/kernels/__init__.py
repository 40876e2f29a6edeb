"""Kernels for CUDA devices, one file each: `space` says which knobs there are, `prepare` lays the weights out, `build` generates code."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any

from sparsecc.codegen.cuda.kernel import Kernel


def module_of(name: str) -> Any:
    """The module of a kernel's file."""
    return importlib.import_module(f"{__name__}.{name}")


@cache
def linear_kernels() -> dict[str, Kernel]:
    """All that multiply by stored weights, by the names of their files."""
    names = [name for _, name, _ in pkgutil.iter_modules(__path__) if "\nKERNEL = " in Path(__path__[0], f"{name}.py").read_text()]
    return {name: module_of(name).KERNEL for name in names}


def kernels_of(form: str) -> dict[str, Kernel]:
    """Those that multiply by weights of a form. All of one form lay them out alike."""
    return {name: kernel for name, kernel in linear_kernels().items() if form in kernel.forms}


def kernel_of(form: str) -> Kernel:
    """One that lays out weights of a form. Raises LookupError where there is none."""
    return next(iter(kernels_of(form).values()))
