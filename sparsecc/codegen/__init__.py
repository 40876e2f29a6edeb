"""Graph → Relax → library. `build` is the way in; it is imported on first use, for it loads TVM.

`threads` can be imported from here, too: programs outside use it.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {"build": "sparsecc.codegen.compiler:build", "threads": "sparsecc.codegen.cpu.threads"}  # module, or module:name


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    home = importlib.import_module(module)
    return getattr(home, attribute) if attribute else home
