"""The recipe that all models share: magnitude pruning of some layers, then packing."""

from __future__ import annotations

from typing import Any


def prune_and_pack(targets: list[str], pattern: str, sparsity: float) -> dict[str, Any]:
    prune = {"targets": targets, "criterion": "magnitude", "pattern": pattern, "sparsity": sparsity}
    return {"passes": [{"prune": prune}, {"pack": {}}]}
