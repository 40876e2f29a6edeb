"""Parameters of structures as their keys write them."""

from __future__ import annotations

import re


def blocks_and_terms(text: str) -> tuple[int, int, int] | None:
    """`4x2:3` → 4, 2, 3; None for anything else."""
    fields = re.fullmatch(r"([1-9][0-9]{0,8})x([1-9][0-9]{0,8}):([1-9][0-9]{0,8})", text)
    return None if fields is None else (int(fields[1]), int(fields[2]), int(fields[3]))
