"""The members that the laws run over. A new file in a family without an example here fails a test of `test_members.py`."""

from __future__ import annotations

from typing import Any

from sparsecc import allocations, attention, criteria, formats, refinements, registry, structures
from sparsecc.formats.base import Format
from sparsecc.structures.base import Structure

PATTERNS = {
    "csr": ("unstructured",),
    "block": ("4x1", "16x1", "1x4", "2x3"),
    "nm": ("2:4", "1:4", "1:2", "3:5", "5:16"),
}
FORMATS: list[Format] = [formats.from_pattern(pattern) for patterns in PATTERNS.values() for pattern in patterns]
KEYS = {
    "armor": ("armor:4", "armor:8"),
    "kronecker": ("kronecker:4x2:3", "kronecker:2x8:1", "kronecker:8x1:2"),
    "low_rank": ("low_rank:1", "low_rank:5"),
    "monarch": ("monarch:2x4:1", "monarch:4x2:3", "monarch:1x8:2", "monarch:8x1:2"),
}
STRUCTURES: list[Structure] = [structures.from_key(key) for keys in KEYS.values() for key in keys]
PRECISIONS = {"int8": ("int8", "int8:calibrated", "int8:7", "int8:calibrated:7"), "bfloat16": ("bfloat16",)}
CRITERIA = {name: criteria.create(name) for name in registry.members("criteria")}
REFINEMENTS = {name: refinements.create(name) for name in registry.members("refinements")}
ATTENTION = {key: attention.create(key) for key in (*registry.members("attention"), "sliding_window:5")}
ALLOCATIONS = {name: allocations.create(name) for name in registry.members("allocations")}
TRAINING: dict[str, tuple[dict[str, Any], ...]] = {  # at least one recipe for every file in `train/`, without steps
    "gmp": ({"sparsity": 0.7}, {"pattern": "4x1", "sparsity": 0.5}, {"pattern": "1:4"}),
    "set": ({"sparsity": 0.7, "start": "random"}, {"pattern": "1x4", "sparsity": 0.5}, {"pattern": "2:4"}),
    "rigl": ({"sparsity": 0.7, "allocation": "erk"}, {"pattern": "4x1", "sparsity": 0.5, "allocation": "global"}, {"pattern": "2:4"}),
    "srigl": ({"sparsity": 0.7}, {"sparsity": 0.9, "salient": 0.9}),
    "granet": ({"sparsity": 0.7}, {"pattern": "4x1", "sparsity": 0.6, "initial": 0.5}, {"pattern": "1:4"}),
    "sr_ste": ({"pattern": "2:4"}, {"sparsity": 0.7, "every": 3}, {"pattern": "4x1", "sparsity": 0.5, "begin": 10}),
    "cast": ({"pattern": "1:4"}, {"sparsity": 0.7, "decay": 0.01}),
}
