"""Kernels that are compiled and called one after the other, so that they can be timed as they will run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sparsecc.codegen import tvm_api
from sparsecc.codegen.cpu.target import Target


class Tape:
    """See `codegen.calls`.  functions: compiled kernels by key, shared between tapes."""

    def __init__(self, target: Target, functions: dict[Any, Any]) -> None:
        self._target, self._functions = target, functions
        self._calls: list[tuple[Callable[..., None], list[Any]]] = []

    def weight(self, array: np.ndarray) -> Any:
        return tvm_api.tensor(array)

    def kernel(self, key: Any, build: Callable[[], Any]) -> Callable[..., None]:
        if key not in self._functions:
            self._functions[key] = tvm_api.compile_function(build(), self._target.llvm)
        return self._functions[key]

    def call(self, kernel: Callable[..., None], args: list[Any], out: tuple[int, ...], dtype: str = "float32") -> Any:
        return self.call_for_several(kernel, args, [(out, dtype)])[0]

    def call_for_several(self, kernel: Callable[..., None], args: list[Any], outs: list[tuple[tuple[int, ...], str]]) -> list[Any]:
        tensors = [tvm_api.tensor(np.zeros(shape, dtype)) for shape, dtype in outs]
        self._calls.append((kernel, [*args, *tensors]))
        return tensors

    def run(self) -> None:
        for kernel, arguments in self._calls:
            kernel(*arguments)

    def values(self, tensor: Any) -> np.ndarray:
        return np.from_dlpack(tensor)
