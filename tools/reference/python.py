"""docs/reference/python.md: the names of `sparsecc.__all__`, from signatures and docstrings."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from types import ModuleType
from typing import Any

import sparsecc
from tools.reference.docstrings import Described, cell, described, sentence, table

_WIDTH = 100  # of a signature, beyond which each parameter has a line of its own
_PARTS = ("SiteReport", "Check", "Measured")  # of a Report, which nobody imports by name
_FOR_OTHER_MODULES = {"Compiled": ("renew_locks", "flat", "held", "add", "add_library", "specializations")}


def page() -> str:
    head = "# Python reference\n\n`import sparsecc` loads neither torch nor TVM nor onnx; each function loads what it needs.\n"
    report = importlib.import_module("sparsecc.report.base")
    named = [(f"sparsecc.{name}", getattr(sparsecc, name)) for name in sparsecc.__all__]
    parts = [(f"{report.__name__}.{name}", getattr(report, name)) for name in _PARTS]
    return "\n".join([head, *(_section(name, value) for name, value in (*named, *parts))])


def _section(name: str, value: Any) -> str:
    if isinstance(value, ModuleType):
        return _module(name, value)
    parts = _class(name, value) if isinstance(value, type) else _function(f"## {name}", name, value)
    return "\n\n".join(parts) + "\n"


def _module(name: str, module: ModuleType) -> str:
    """The functions that a module defines."""
    found = [(key, value) for key, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == module.__name__]
    return "\n".join("\n\n".join(_function(f"## {name}.{key}", f"{name}.{key}", value)) + "\n" for key, value in found if key[0] != "_")


def _function(heading: str, name: str, function: Any) -> Iterator[str]:
    signature = inspect.signature(function)
    told = described(function.__doc__, list(signature.parameters))
    yield heading
    yield f"```python\n{_signature(name, signature)}\n```"
    yield from told.text
    if told.fields:
        yield table(["parameter", "meaning"], ([f"`{key}`", cell(sentence(meaning))] for key, meaning in told.fields.items()))


def _class(name: str, cls: type) -> Iterator[str]:
    short = name.rpartition(".")[2]
    told = described(cls.__doc__, [field.name for field in fields(cls)] if is_dataclass(cls) else inspect.signature(cls).parameters)
    yield f"## {name}"
    yield from told.text
    yield from _attributes(cls, told)
    for key, value in vars(cls).items():
        if (key.startswith("_") and key != "__call__") or key in _FOR_OTHER_MODULES.get(short, ()):
            continue
        function = getattr(value, "__func__", value)  # of a class method
        if isinstance(value, property):
            yield f"`{short}.{key}`: {described(value.__doc__).first}".removesuffix(": ")
        elif inspect.isfunction(function):
            yield from _function(f"### {short}.{key}", short.lower() if key == "__call__" else f"{short}.{key}", function)


def _attributes(cls: type, told: Described) -> Iterator[str]:
    """All fields of a dataclass; of another class what its docstring describes."""
    if not is_dataclass(cls):
        if told.fields:
            yield table(["attribute", "meaning"], ([f"`{key}`", cell(sentence(meaning))] for key, meaning in told.fields.items()))
        return
    rows = [[f"`{field.name}`", f"`{cell(str(field.type))}`", cell(sentence(told.fields.get(field.name, "")))] for field in fields(cls)]
    yield table(["field", "type", "meaning"], rows)


def _signature(name: str, signature: inspect.Signature) -> str:
    parameters, seen_star = [], False
    for key, parameter in signature.parameters.items():
        if key in ("self", "cls"):
            continue
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not seen_star:
            parameters.append("*")
        seen_star = seen_star or parameter.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_POSITIONAL)
        parameters.append(_parameter(parameter))
    returned = "" if signature.return_annotation is inspect.Signature.empty else f" -> {signature.return_annotation}"
    line = f"{name}({', '.join(parameters)}){returned}"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {parameter}," for parameter in parameters), f"){returned}"])


def _parameter(parameter: inspect.Parameter) -> str:
    """As it is written, where annotations are text."""
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    annotation = "" if parameter.annotation is inspect.Parameter.empty else f": {parameter.annotation}"
    default = "" if parameter.default is inspect.Parameter.empty else f" = {parameter.default!r}"
    return f"{stars}{parameter.name}{annotation}{default}"
