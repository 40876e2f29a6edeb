"""Graph → Relax → library. `build` is the way in; it is imported on first use, for it loads TVM."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "build":
        from sparsecc.codegen.build import build

        globals()["build"] = build  # the function, in the place of the module of the same name
        return build
    raise AttributeError(name)
