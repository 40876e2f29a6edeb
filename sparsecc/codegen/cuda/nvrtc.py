"""TensorIR → CUDA C++ → cubin, on any machine: NVRTC and CUDA's headers come from PyPI with the extra `gpu-build`."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sparsecc.codegen.cuda.arch import Arch
from sparsecc.errors import SparseccError, UserError

_INSTALL = "run: pip install 'sparsecc[gpu-build]'"
_FLAGS = ("-default-device", "--device-int128")
_PRELUDE = """#include <cuda/std/cstdint>
using cuda::std::int8_t; using cuda::std::int16_t; using cuda::std::int32_t; using cuda::std::int64_t;
using cuda::std::uint8_t; using cuda::std::uint16_t; using cuda::std::uint32_t; using cuda::std::uint64_t;
struct alignas(64) CUtensorMap { uint64_t opaque[16]; };
"""


@dataclass(frozen=True)
class Built:
    """source: CUDA C++.  cubin: for one architecture.  name: of the function in it.  arguments: the names of its parameters (of
    buffers those of the kernel) in their order, which TVM decides."""

    source: str
    cubin: bytes
    name: str
    arguments: tuple[str, ...]


def build(func: Any, arch: Arch) -> Built:
    """A PrimFunc in the style of device code → the source that TVM makes of it, and its cubin.

    Raises UserError where the packages are not installed, SparseccError for a source that NVRTC refuses."""
    from sparsecc.codegen.tvm_api import tvm  # here, because a source is compiled without it

    module = tvm.IRModule({func.attrs["global_symbol"]: func})
    compiled = tvm.compile(module, target=tvm.target.Target(arch.target), tir_pipeline="tirx")
    source = compiled.mod.imports[0].inspect_source()
    return Built(source, cubin(source, arch.name), *_signature(source))


def _signature(source: str) -> tuple[str, tuple[str, ...]]:
    """The name of the one kernel in a source, and those of its parameters."""
    found = re.search(r"__global__ void (?:__\w+__\([^)]*\) )?(\w+)\(([^)]*)\)\s*\{", source)
    if found is None:
        raise SparseccError("TVM made a source without a kernel")
    return found[1], tuple(name.removesuffix("_ptr") for name in re.findall(r"(\w+)\s*(?:,|$)", found[2]))


def cubin(source: str, arch: str) -> bytes:
    """arch: as NVRTC spells it, in the table or not.

    Raises UserError where the packages are not installed, SparseccError for a source that NVRTC refuses."""
    headers, nvrtc = _headers(), _nvrtc()
    text = _PRELUDE + source.replace("#include <cuda.h>\n", "")  # a header of the host's
    flags = [f"--gpu-architecture={arch}", *_FLAGS, *(f"-I{folder}" for folder in headers)]
    try:
        program = _done(nvrtc.nvrtcCreateProgram(text.encode(), b"kernel.cu", 0, None, None), "no program")
    except RuntimeError as error:  # of cuda-bindings, which opens the library now
        raise UserError(f"kernels for CUDA need nvidia-cuda-nvrtc ({str(error).splitlines()[0]}); {_INSTALL}") from error
    try:
        [status] = nvrtc.nvrtcCompileProgram(program, len(flags), [flag.encode() for flag in flags])
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise SparseccError(f"NVRTC refuses a kernel for {arch}: {_first_error(program)}")
        code = b" " * _done(nvrtc.nvrtcGetCUBINSize(program), "no size of the code")
        _done(nvrtc.nvrtcGetCUBIN(program, code), "no code")
        return code
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def missing() -> str | None:
    """Why nothing can be built here. None when it can."""
    try:
        _headers()
        _done(_nvrtc().nvrtcVersion(), "no version")
    except UserError as error:
        return str(error)
    except RuntimeError as error:  # of cuda-bindings, which opens the library now
        return f"kernels for CUDA need nvidia-cuda-nvrtc ({str(error).splitlines()[0]}); {_INSTALL}"
    return None


def _first_error(program: Any) -> str:
    nvrtc = _nvrtc()
    log = b" " * _done(nvrtc.nvrtcGetProgramLogSize(program), "no log")
    _done(nvrtc.nvrtcGetProgramLog(program, log), "no log")
    lines = log.decode(errors="replace").splitlines()
    return next((line for line in lines if "error" in line), lines[0] if lines else "it says nothing").strip()


def _done(result: tuple[Any, ...], what: str) -> Any:
    nvrtc = _nvrtc()
    status, *values = result
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise SparseccError(f"NVRTC gives {what}: {nvrtc.nvrtcGetErrorString(status)[1].decode()}")
    return values[0] if values else None


def _nvrtc() -> Any:
    """Raises UserError where it is not installed."""
    try:
        return importlib.import_module("cuda.bindings.nvrtc")
    except ImportError:
        raise UserError(f"kernels for CUDA need cuda-bindings; {_INSTALL}") from None


@cache
def _headers() -> tuple[Path, Path]:
    """CUDA's, and those of its C++ library. Raises UserError where they are missing."""
    for folder in map(Path, sys.path):
        include = folder / "nvidia" / "cu13" / "include"
        if (include / "cccl" / "cuda" / "std" / "cstdint").exists() and (include / "cuda_bf16.h").exists():
            return include, include / "cccl"
    raise UserError(f"kernels for CUDA need the headers of CUDA 13; {_INSTALL}")
