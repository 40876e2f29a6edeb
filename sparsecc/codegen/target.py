"""Targets are tables: what a CPU has, looked up by field and never by name in a kernel."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """vector_bits: width of the widest float registers.  registers: how many.  l1_bytes, l2_bytes: per core.
    cpu: LLVM's name of the CPU.  features: ISA extensions that generated code may use, as LLVM names them."""

    cpu: str
    triple: str
    features: tuple[str, ...]
    vector_bits: int
    registers: int
    l1_bytes: int
    l2_bytes: int
    threads: int

    @property
    def lanes(self) -> int:
        """fp32 values in one vector register."""
        return self.vector_bits // 32
