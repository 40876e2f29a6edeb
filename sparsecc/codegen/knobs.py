"""What may be chosen about a kernel without changing what it computes."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Knobs:
    """A kernel has its own, a frozen dataclass whose fields are numbers: hashable, printed in reports, and text in the records."""

    def __str__(self) -> str:
        return " ".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))
