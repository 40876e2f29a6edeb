"""The architectures that kernels are generated for.

Sources: CUDA C++ Programming Guide, table of compute capabilities; PTX ISA 9.0 for which instruction is where.
"""

from __future__ import annotations

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
    def target(self) -> dict[str, str]:
        """TVM's."""
        return {"kind": "cuda", "arch": self.name}


ARCHES = (
    Arch("sm_80", 163 * 1024, bulk_copies=False),  # A100
    Arch("sm_89", 99 * 1024, bulk_copies=False),  # L4, L40, RTX 4090
    Arch("sm_90a", 227 * 1024, bulk_copies=True),  # H100, H200
)


def arch(name: str) -> Arch:
    """Raises UserError for one that is not in the table."""
    for known in ARCHES:
        if known.name == name:
            return known
    raise UserError(f"no kernels are generated for {name!r}; there are: {', '.join(known.name for known in ARCHES)}")
