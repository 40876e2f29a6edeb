"""The members that the laws run over. A new file in a family without an example here fails a test of `test_members.py`."""

from __future__ import annotations

from sparsecc import allocations, criteria, formats, registry
from sparsecc.formats.base import Format

PATTERNS = {
    "csr": ("unstructured",),
    "block": ("4x1", "16x1", "1x4", "2x3"),
    "nm": ("2:4", "1:4", "1:2", "3:5", "5:16"),
}
FORMATS: list[Format] = [formats.from_pattern(pattern) for patterns in PATTERNS.values() for pattern in patterns]
CRITERIA = {name: criteria.create(name) for name in registry.members("criteria")}
ALLOCATIONS = {name: allocations.create(name) for name in registry.members("allocations")}
