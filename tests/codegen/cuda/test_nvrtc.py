from __future__ import annotations

import re
import sys

import pytest

from sparsecc.codegen.cuda import nvrtc
from sparsecc.codegen.cuda.arch import ARCHES, Arch, arch
from sparsecc.errors import SparseccError, UserError


@pytest.mark.parametrize("known", ARCHES, ids=lambda known: known.name)
def test_a_source_becomes_code_for_every_architecture(known: Arch) -> None:
    code = nvrtc.cubin('extern "C" __global__ void twice(float* x) { x[threadIdx.x] *= 2; }', known.name)
    assert code[:4] == b"\x7fELF" and b"twice" in code


def test_a_source_that_is_refused_is_named_by_its_first_error() -> None:
    with pytest.raises(SparseccError, match=r"NVRTC refuses a kernel for sm_80: .*\bnonsense\b"):
        nvrtc.cubin("nonsense here;", "sm_80")


def test_bindings_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    with pytest.raises(UserError, match=re.escape("need cuda-bindings; run: pip install 'sparsecc[gpu-build]'")):
        nvrtc.cubin("", "sm_80")


def test_headers_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    nvrtc._headers.cache_clear()
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(UserError, match=re.escape("need the headers of CUDA 13; run: pip install 'sparsecc[gpu-build]'")):
        nvrtc.cubin("", "sm_80")


def test_an_architecture_that_nobody_builds_for() -> None:
    with pytest.raises(UserError, match="'sm_70'; there are: sm_80, sm_86, sm_89, sm_90a"):
        arch("sm_70")
