"""Graph → Relax → library. `build` is the way in; it is imported on first use, for it loads TVM."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "build":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sparsecc.codegen.compiler import build

    return build
