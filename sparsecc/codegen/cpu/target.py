"""Targets are tables: what a CPU has, looked up by field and never by name in a kernel."""

from __future__ import annotations

import functools
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sparsecc.codegen import target as targets
from sparsecc.codegen import tvm_api
from sparsecc.errors import UserError
from sparsecc.registry import did_you_mean


@dataclass(frozen=True)
class Target(targets.Target):
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
    backend: ClassVar[str] = "cpu"

    @property
    def name(self) -> str:
        return self.cpu

    @property
    def cannot_run(self) -> str | None:
        """Another architecture, or instructions that this CPU lacks."""
        here = platform.machine().replace("arm64", "aarch64")
        if _machine(self.triple) != here:
            return f"compiled for {self.triple}, this machine is {here}"
        missing = sorted(set(self.features) - set(detect(self.threads).features))
        return f"compiled for {self.cpu}, this CPU lacks {', '.join(missing)}" if missing else None

    @property
    def is_here(self) -> bool:
        return self.cpu == detect(self.threads).cpu

    @property
    def lanes(self) -> int:
        """fp32 values in one vector register."""
        return self.vector_bits // 32

    @property
    def dot(self) -> Mapping[str, str]:
        """By number format, the instruction that multiplies and adds groups of neighbouring inputs in each 32-bit lane; absent where the
        CPU has none."""
        return self._best(_DOTS)

    @property
    def select(self) -> Mapping[str, str]:
        """By number format, the instruction that gives each lane one of a few neighbouring values by an index of its own; absent where the
        CPU has none."""
        return self._best(_SELECTS)

    def _best(self, rows: Sequence[_Instruction]) -> dict[str, str]:
        found: dict[str, str] = {}
        for row in rows:
            if row.needs in self.features and self.vector_bits <= row.vector_bits:
                found.setdefault(row.dtype, row.instruction)
        return found

    @property
    def llvm(self) -> dict[str, Any]:
        """The target as TVM wants it, without what a hypervisor hides, whatever the CPU's name implies."""
        lacking = sorted(_implied(self.cpu, self.triple) - set(self.features))
        return {"kind": "llvm", "mcpu": self.cpu, "mtriple": self.triple, "mattr": [f"-{name}" for name in lacking]}


@dataclass(frozen=True)
class _Isa:
    """A row of the table. needs: features without which the row does not apply, best row first."""

    needs: str
    vector_bits: int
    registers: int


_ISAS = (_Isa("avx512f", 512, 32), _Isa("avx2", 256, 16), _Isa("neon", 128, 32))
_FLOOR = _Isa("", 128, 16)  # SSE2, which every x86-64 has; elsewhere vectors that LLVM splits where the CPU has none


@dataclass(frozen=True)
class _Instruction:
    """A row of a table, best row of a dtype first. vector_bits: of the widest registers that it works on."""

    needs: str
    vector_bits: int
    dtype: str
    instruction: str


_DOTS = (
    _Instruction("avx512vnni", 512, "int8", "vpdpbusd"),
    _Instruction("avxvnni", 256, "int8", "vpdpbusd"),
    _Instruction("avx512bw", 512, "int8", "pmaddwd"),
    _Instruction("avx2", 256, "int8", "pmaddwd"),
    _Instruction("sse3", 128, "int8", "pmaddwd"),
    _Instruction("dotprod", 128, "int8", "sdot"),
    _Instruction("avx512bf16", 512, "bfloat16", "vdpbf16ps"),
    _Instruction("bf16", 128, "bfloat16", "bfdot"),
)

_SELECTS = (
    _Instruction("avx512f", 512, "float32", "vpermilps"),
    _Instruction("avx", 256, "float32", "vpermilps"),
    _Instruction("avx512bw", 512, "int8", "pshufb"),
    _Instruction("avx2", 256, "int8", "pshufb"),
    _Instruction("ssse3", 128, "int8", "pshufb"),
    _Instruction("neon", 128, "int8", "tbl"),
)

# Features that LLVM may use unasked; an artifact records those of its target, and loading looks for each of them.
_RELEVANT = re.compile(
    r"(amx|avx|sme|sse[34]|ssse|sve).*|adx|bf16|bmi2?|cx16|dotprod|f16c|fma4?|fp16fml|fullfp16|gfni|i8mm|lse|lzcnt|movbe|neon|popcnt|rdm"
    r"|sahf|tbm|vaes|vpclmulqdq|xop"
)
_CPUINFO = Path("/proc/cpuinfo")
_FLAGS = {"bmi": "bmi1", "lzcnt": "abm", "sahf": "lahflm", "sse3": "pni"}  # LLVM's names → the kernel's, else equal without punctuation
_CACHES = {"x86_64": (32 << 10, 1 << 20), "aarch64": (64 << 10, 512 << 10)}  # l1, l2 where the CPU is not here to be asked
_ARM_FIRST = ("cortex", "neoverse", "apple", "exynos", "thunderx", "a64fx", "kryo", "falkor", "ampere")


@functools.cache
def detect(threads: int) -> Target:
    """This machine."""
    triple = tvm_api.get_global_func("target.llvm_get_system_triple")()
    l1, l2 = _cache_sizes(_machine(triple))
    return _target(tvm_api.get_global_func("target.llvm_get_system_cpu")(), triple, threads, l1, l2, _shown(triple))


def parse(text: str, threads: int) -> Target:
    """`cpu` is this machine, `cpu:NAME` the CPU that LLVM knows by that name ("cpu:skylake-avx512", "cpu:cortex-a76").

    Raises UserError for another name, with the nearest that exists.
    """
    _, _, name = text.partition(":")
    if not name:
        return detect(threads)
    triple = "aarch64-linux-gnu" if name.startswith(_ARM_FIRST) else "x86_64-linux-gnu"
    known = [str(cpu) for cpu in tvm_api.get_global_func("target.llvm_get_cpu_archlist")(_llvm_target(triple))]
    if name not in known:
        raise UserError(f"target {text!r}: LLVM knows no such CPU{did_you_mean(name, known)}")
    return _target(name, triple, threads, *_CACHES[_machine(triple)])


def _target(cpu: str, triple: str, threads: int, l1: int, l2: int, shown: frozenset[str] | None = None) -> Target:
    """shown: the features that the machine itself names; None: what the CPU's name implies."""
    features = tuple(sorted(name for name in _implied(cpu, triple) if shown is None or _flag(name) in shown))
    isa = next((row for row in _ISAS if row.needs in features), _FLOOR)
    return Target(cpu, triple, features, isa.vector_bits, isa.registers, l1, l2, threads)


@functools.cache
def _implied(cpu: str, triple: str) -> frozenset[str]:
    """The relevant features that a CPU of this name has."""
    known = tvm_api.get_global_func("target.llvm_get_cpu_features")(_llvm_target(triple, cpu))
    return frozenset(str(name) for name in known if _RELEVANT.fullmatch(str(name)))


def _shown(triple: str) -> frozenset[str] | None:
    """The flags of the first CPU as the kernel shows them, without punctuation; None where it shows none, or they are not of x86."""
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.exists() and _machine(triple) == "x86_64" else []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), None)
    return None if flags is None else frozenset(_plain(flag) for flag in flags)


def _flag(feature: str) -> str:
    return _FLAGS.get(feature, _plain(feature))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name)


def _llvm_target(triple: str, cpu: str | None = None) -> object:
    config: Mapping[str, str] = {"kind": "llvm", "mtriple": triple, **({"mcpu": cpu} if cpu else {})}
    return tvm_api.TvmTarget(dict(config))


def _machine(triple: str) -> str:
    return triple.split("-")[0].replace("arm64", "aarch64")


def _cache_sizes(machine: str) -> tuple[int, int]:
    """L1 data and L2 of one core, from the kernel's description of the first CPU."""
    sizes = dict(zip((1, 2), _CACHES.get(machine, _CACHES["x86_64"]), strict=True))
    sizes |= {level: size for level, size in _shown_caches().items() if level in sizes}
    return sizes[1], sizes[2]


def shared_cache_bytes() -> int:
    """The third-level cache that this CPU is part of, 0 where the kernel shows none."""
    return _shown_caches().get(3, 0)


def _shown_caches() -> dict[int, int]:
    """Bytes of the first CPU's data caches by level, as the kernel describes them."""
    sizes: dict[int, int] = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:  # not every kernel or container shows all of them
            continue
        if kind != "Instruction" and size.endswith("K"):
            sizes[int(level)] = int(size[:-1]) << 10
    return sizes


def host_name() -> str:
    """The CPU's marketing name, for reports."""
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), os.uname().machine)
