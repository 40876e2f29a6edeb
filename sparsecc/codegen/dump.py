"""Each kernel of a model as files to read: its TensorIR, and its assembly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsecc.codegen import tvm_api
from sparsecc.files import naming, write_text


def write_kernels(module: Any, llvm: dict[str, Any], folder: Path) -> None:
    """NAME.py and NAME.s for each function of a scheduled module.  llvm: the target."""
    with naming(folder / "kernel"):
        folder.mkdir(parents=True, exist_ok=True)
    for gvar, func in module.functions.items():
        if isinstance(func, tvm_api.PrimFunc):
            write_text(folder / f"{gvar.name_hint}.py", func.script())
            alone = tvm_api.IRModule({"main": func.with_attr("global_symbol", "main")})
            write_text(folder / f"{gvar.name_hint}.s", tvm_api.compile_module(alone, llvm).mod.inspect_source("asm"))
