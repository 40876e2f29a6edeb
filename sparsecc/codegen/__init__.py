"""Graph → Relax → library. `build` is the way in; it is imported on first use, for it loads TVM.

`threads` can be imported from here, too: programs outside use it.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {"build": "sparsecc.codegen.compiler", "threads": "sparsecc.codegen.cpu"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(_HOMES[name])
    return getattr(home, name) if name == "build" else importlib.import_module(f"{home.__name__}.{name}")
