"""The architectures that kernels are generated for.

Sources: CUDA C++ Programming Guide, table of compute capabilities; PTX ISA 9.0 for which instruction is where.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sparsecc.errors import UserError


@dataclass(frozen=True)
class Arch:
    """name: as NVRTC spells it.  shared_bytes: that one block may have.  bulk_copies: `cp.async.bulk` with mbarriers, and programmatic
    dependent launch."""

    name: str
    shared_bytes: int
    bulk_copies: bool

    @property
    def capability(self) -> tuple[int, int]:
        return capability(self.name)

    @property
    def target(self) -> dict[str, str]:
        """TVM's."""
        return {"kind": "cuda", "arch": self.name}


ARCHES = (
    Arch("sm_80", 163 * 1024, bulk_copies=False),  # A100
    Arch("sm_86", 99 * 1024, bulk_copies=False),  # A10, A40, RTX 3090
    Arch("sm_89", 99 * 1024, bulk_copies=False),  # L4, L40, RTX 4090
    Arch("sm_90a", 227 * 1024, bulk_copies=True),  # H100, H200
)


def arch(name: str) -> Arch:
    """Raises UserError for one that is not in the table."""
    for known in ARCHES:
        if known.name == name:
            return known
    raise UserError(f"no kernels are generated for {name!r}; there are: {', '.join(known.name for known in ARCHES)}")


def capability(name: str) -> tuple[int, int]:
    """(9, 0) of sm_90a."""
    digits = name.removeprefix("sm_").rstrip("a")
    return int(digits[:-1]), int(digits[-1])


def spelt(capability: tuple[int, int]) -> str:
    """sm_90 of (9, 0)."""
    return f"sm_{capability[0]}{capability[1]}"


def runs_on(names: Iterable[str], device: tuple[int, int]) -> str | None:
    """The best of the architectures that code was built for whose code this device runs: of the same generation and no newer, and of
    those with an `a` none but this very one. None where there is none."""
    known = [name for name in names if _runs(name, device)]
    return max(known, key=lambda name: (capability(name), name), default=None)


def source_for(names: Iterable[str], device: tuple[int, int]) -> str | None:
    """The best of the architectures whose source can be compiled for this device. None where all are newer, or for one device alone."""
    known = [name for name in names if not name.endswith("a") and capability(name) <= device]
    return max(known, key=capability, default=None)


def serves(names: Iterable[str], device: tuple[int, int]) -> bool:
    """Whether code that was built for these architectures runs on this device, or its source can be compiled for it."""
    known = list(names)
    return (runs_on(known, device) or source_for(known, device)) is not None


def _runs(name: str, device: tuple[int, int]) -> bool:
    built = capability(name)
    return built == device if name.endswith("a") else built[0] == device[0] and built[1] <= device[1]


def nearest(device: tuple[int, int]) -> Arch | None:
    """The table's row for a device. None where it has none."""
    name = runs_on([known.name for known in ARCHES], device)
    return None if name is None else arch(name)
