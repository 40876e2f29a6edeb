"""What torch.export does anew for each program, and of which every test of a run would get the same: done once."""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

Overriding = Callable[[Mapping[Any, Any]], AbstractContextManager[None]]


def remember() -> None:
    """To be called before each test: torch.export is loaded by the first one that needs it."""
    utils, programs = sys.modules.get("torch._export.utils"), sys.modules.get("torch.export.exported_program")
    if utils is not None and not hasattr(utils._materialize_cpp_cia_ops, "cache_info"):  # asks the dispatcher for all its operators
        vars(utils)["_materialize_cpp_cia_ops"] = functools.cache(utils._materialize_cpp_cia_ops)
    if programs is not None and not isinstance(programs._override_composite_implicit_decomp, Overrides):
        vars(programs)["_override_composite_implicit_decomp"] = Overrides(programs._override_composite_implicit_decomp)
    registration = sys.modules.get("torch.onnx._internal.exporter._registration")
    if registration is not None and not isinstance(registration.ONNXRegistry.from_torchlib, Registries):
        registration.ONNXRegistry.from_torchlib = Registries(registration.ONNXRegistry.from_torchlib)


class Registries:
    """torch.onnx.export reads the source of 500 functions that write ONNX operators: three quarters of its time for a small model."""

    def __init__(self, original: Callable[..., Any]) -> None:
        self.read = functools.cache(original)

    def __call__(self, **options: Any) -> Any:
        registry = copy.copy(self.read(**options))
        registry.functions = {target: list(found) for target, found in registry.functions.items()}
        return registry


class Overrides:
    """run_decompositions gives 700 operators 16 kernels each and takes them back, which is three quarters of its time.

    The second time for the same operators in the same state, each gets a copy of the table of kernels that it had the first time.
    """

    def __init__(self, original: Overriding) -> None:
        self.original = original
        self.known: list[tuple[Mapping[Any, Any], dict[Any, _Kernels]]] = []

    @contextmanager
    def __call__(self, decompositions: Mapping[Any, Any]) -> Iterator[None]:
        from torch._subclasses.fake_impls import op_implementations_dict as rules

        kernels = self._kernels(decompositions)
        if kernels is not None and not any(op in rules for op in kernels):
            with self._as_before(kernels, rules):
                yield
            return
        usual, is_plain = {op: dict(op.py_kernels) for op in decompositions}, not any(op in rules for op in decompositions)
        with self.original(decompositions):
            if kernels is None and is_plain:
                found = {op: _Kernels(usual[op], dict(op.py_kernels), rules[op]) for op in decompositions}
                self.known.append((dict(decompositions), found))
            yield

    def _kernels(self, decompositions: Mapping[Any, Any]) -> dict[Any, _Kernels] | None:
        """Of these decompositions, when the operators are as they were."""
        for same, kernels in self.known:
            if _alike(same, decompositions) and all(op.py_kernels == each.usual for op, each in kernels.items()):
                return kernels
        return None

    @contextmanager
    def _as_before(self, kernels: dict[Any, _Kernels], rules: dict[Any, Any]) -> Iterator[None]:
        usual = {op: op.py_kernels for op in kernels}
        try:
            for op, each in kernels.items():
                op.py_kernels = dict(each.overriding)
                op._dispatch_cache.clear()
                rules[op] = each.rule
            yield
        finally:
            for op, table in usual.items():
                op.py_kernels = table
                op._dispatch_cache.clear()
                rules.pop(op, None)


def _alike(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    """The same callables for the same operators; some are made anew each time, of the same function and what it is given."""
    return one.keys() == other.keys() and all(_made_of(each) == _made_of(other[op]) for op, each in one.items())


def _made_of(decomposition: Any) -> Any:
    if not isinstance(decomposition, functools.partial):
        return decomposition
    return decomposition.func.__code__, decomposition.args, decomposition.keywords


class _Kernels:
    def __init__(self, usual: dict[Any, Any], overriding: dict[Any, Any], rule: Any) -> None:
        self.usual, self.overriding, self.rule = usual, overriding, rule
