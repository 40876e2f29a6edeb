from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparsecc.codegen.cpu import target as module
from sparsecc.codegen.cpu.kernels import dense_matmul
from sparsecc.codegen.cpu.target import Target, parse
from sparsecc.codegen.spec import MatmulSpec
from tests.codegen.cpu.kernels.running import assembly

SERVER = parse("cpu:sapphirerapids", 2)


def detected(monkeypatch: pytest.MonkeyPatch, folder: Path, cpuinfo: str) -> Target:
    """What is detected on a machine whose name is SERVER's and whose kernel shows this."""
    known = module.tvm_api.get_global_func
    answers: dict[str, Any] = {
        "target.llvm_get_system_cpu": lambda: SERVER.cpu,
        "target.llvm_get_system_triple": lambda: SERVER.triple,
    }
    monkeypatch.setattr(module.tvm_api, "get_global_func", lambda name: answers.get(name) or known(name))
    monkeypatch.setattr(module, "_CPUINFO", folder / "cpuinfo")
    (folder / "cpuinfo").write_text(cpuinfo)
    return module.detect.__wrapped__(2)


def test_features_are_those_that_the_machine_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    flags = "fpu sse2 pni ssse3 sse4_1 sse4_2 popcnt abm avx f16c fma bmi1 avx2 bmi2 avx_vnni sha_ni"
    found = detected(monkeypatch, tmp_path, f"processor\t: 0\nflags\t\t: {flags}\nbugs\t: spectre_v1\n")
    expected = ("avx", "avx2", "avxvnni", "bmi", "bmi2", "f16c", "fma", "lzcnt", "popcnt", "sse3", "sse4.1", "sse4.2", "ssse3")
    assert found.features == expected
    assert (found.vector_bits, found.registers) == (256, 16)
    assert {"-avx512f", "-avx512bf16", "-gfni"} <= {*found.llvm["mattr"]} and "-avx2" not in found.llvm["mattr"]


def test_code_does_without_what_is_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = detected(monkeypatch, tmp_path, "flags : avx avx2 fma\n")
    spec = MatmulSpec.linear(64, 64, 2, 64)
    for target, has_zmm in ((found, False), (SERVER, True)):
        knobs = next(iter(dense_matmul.space(spec, target)))
        assert ("zmm" in assembly(dense_matmul.build(spec, knobs, target), target)) == has_zmm


@pytest.mark.parametrize("cpuinfo", ["", "Features : asimd\n"])
def test_where_nothing_is_shown_the_name_tells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cpuinfo: str) -> None:
    assert detected(monkeypatch, tmp_path, cpuinfo).features == SERVER.features
    assert SERVER.llvm["mattr"] == []


def test_an_artifact_names_what_llvm_may_use_unasked() -> None:
    assert {"avx512vbmi", "avx512ifma", "avx512bitalg", "avx512vpopcntdq", "gfni", "bmi", "bmi2", "lzcnt"} <= {*SERVER.features}
    assert {"neon", "dotprod", "sve2"} <= {*parse("cpu:neoverse-v2", 1).features}


def test_what_runs_here() -> None:
    here = module.detect(1)
    assert here.cannot_run is None
    assert replace(here, features=here.features[:1]).cannot_run is None
    assert "lacks imaginary" in str(replace(here, features=("imaginary",)).cannot_run)
    assert "compiled for riscv64" in str(replace(here, triple="riscv64-linux-gnu").cannot_run)
