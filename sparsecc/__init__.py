"""sparsecc makes a trained network cheaper to run, and proves that it did.

Importing it loads neither torch nor tvm nor onnx; the functions load what they need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sparsecc._version import __version__ as __version__

__all__ = [
    "Compiled",
    "Plan",
    "Recipe",
    "Report",
    "SparseccError",
    "TuningResult",
    "compile",
    "convert",
    "explain",
    "load",
    "plan",
    "prune_module",
    "sensitivity",
    "spread",
    "train",
    "tune",
]

if TYPE_CHECKING:
    from sparsecc import train
    from sparsecc.api import compile, convert, explain, load
    from sparsecc.api.analyses import sensitivity
    from sparsecc.api.modules import prune_module
    from sparsecc.api.plans import plan
    from sparsecc.attention.plan import Plan
    from sparsecc.autotune.entry import tune
    from sparsecc.codegen.tuning.result import TuningResult
    from sparsecc.errors import SparseccError
    from sparsecc.ranks.world import spread
    from sparsecc.recipe import Recipe
    from sparsecc.report.base import Report
    from sparsecc.runtime.compiled import Compiled

_HOMES = {
    "Compiled": "sparsecc.runtime.compiled",
    "Plan": "sparsecc.attention.plan",
    "Recipe": "sparsecc.recipe",
    "Report": "sparsecc.report.base",
    "SparseccError": "sparsecc.errors",
    "TuningResult": "sparsecc.codegen.tuning.result",
    "compile": "sparsecc.api",
    "convert": "sparsecc.api",
    "explain": "sparsecc.api",
    "load": "sparsecc.api",
    "plan": "sparsecc.api.plans",
    "prune_module": "sparsecc.api.modules",
    "sensitivity": "sparsecc.api.analyses",
    "spread": "sparsecc.ranks.world",
    "tune": "sparsecc.autotune.entry",
}


def __getattr__(name: str) -> Any:
    if name == "train":
        return importlib.import_module("sparsecc.train")
    if name not in _HOMES:
        raise AttributeError(f"module 'sparsecc' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "train"})
