"""TVMScript's `T`, loaded when a kernel is generated: whoever only lays weights out or launches what is built needs no TVM."""

from __future__ import annotations

from typing import Any


class _Script:
    def __getattr__(self, name: str) -> Any:
        from sparsecc.codegen import tvm_api

        return getattr(tvm_api.T, name)


T: Any = _Script()
