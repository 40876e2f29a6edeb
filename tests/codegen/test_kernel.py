from __future__ import annotations

from types import ModuleType

import pytest

from sparsecc.codegen import kernel as rows
from sparsecc.codegen.kernel import kernels, version


def test_a_kernel_is_found_by_its_file() -> None:
    assert {"dense_matmul", "nm_matvec"} <= set(kernels("cpu"))
    assert all(isinstance(row, rows.Kernel) for row in kernels("cpu").values())


def test_a_version_is_of_the_code_and_of_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(source: str) -> str:
        kernel = ModuleType("kernel")
        monkeypatch.setattr(rows.registry, "load", lambda family, name: kernel)
        monkeypatch.setattr(rows.inspect, "getsource", lambda module: source if module is kernel else "")
        version.cache_clear()
        return version("cpu", "kernel")

    code = "def build(x):\n    return x + 1\n"
    assert of(code) == of(f"# a comment\n{code}\n\ndef space(spec):\n    return [2]\n")
    assert of(code) != of(code.replace("1", "2"))
    version.cache_clear()


def test_a_version_is_of_what_a_kernel_uses_too() -> None:
    module = rows.registry.load("codegen.cpu.kernels", "nm_matvec")
    used = {found.__name__.removeprefix("sparsecc.codegen.cpu.") for found in rows._used(module, "sparsecc.codegen.cpu.")}
    assert {"kernels.nm_matvec", "pieces.matvec", "pieces.nm_select", "pieces.epilogue", "pieces.math"} <= used
