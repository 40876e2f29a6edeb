"""docs/reference/python.md: the names of `sparsecc.__all__`, from the source: nothing is imported, since that would load TVM."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import sparsecc
from tools.reference.docstrings import Described, cell, described, sentence, table

_WIDTH = 100  # of a signature, beyond which each parameter has a line of its own
_MODULES = ("train",)  # names of `__all__` that are modules; what they define is shown
_PARTS = ("SiteReport", "Check", "Measured")  # of a Report, which nobody imports by name
_FOR_OTHER_MODULES = {"Compiled": ("renew_locks", "flat", "held", "add", "add_library", "specializations")}
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def page() -> str:
    head = "# Python reference\n\n`import sparsecc` loads neither torch nor TVM nor onnx; each function loads what it needs.\n"
    return "\n".join([head, *_sections()])


def _sections() -> Iterator[str]:
    for name in sparsecc.__all__:
        if name in _MODULES:
            yield from (_section(f"sparsecc.{name}.{node.name}", node) for node in _functions(_tree(f"sparsecc.{name}")))
        else:
            yield _section(f"sparsecc.{name}", _defined(sparsecc._HOMES[name], name))
    report = sparsecc._HOMES["Report"]
    yield from (_section(f"{report}.{name}", _defined(report, name)) for name in _PARTS)


@cache
def _tree(module: str) -> ast.Module:
    found = importlib.util.find_spec(module)
    assert found is not None, module
    assert found.origin is not None, module
    return ast.parse(Path(found.origin).read_text())


def _defined(module: str, name: str) -> ast.AST:
    """The class or function of that name, followed to the module that defines it. Raises LookupError."""
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef | _Function) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            return _defined(node.module or "", name)
    raise LookupError(f"{module} neither defines nor imports {name!r}")


def _functions(tree: ast.Module) -> Iterator[_Function]:
    """The public functions of a module."""
    return (node for node in tree.body if isinstance(node, _Function) and not node.name.startswith("_"))


def _section(name: str, node: ast.AST) -> str:
    if isinstance(node, ast.ClassDef):
        return "\n\n".join(_class(name, node)) + "\n"
    assert isinstance(node, _Function)
    return "\n\n".join(_function(f"## {name}", name, node)) + "\n"


def _function(heading: str, name: str, node: _Function) -> Iterator[str]:
    told = described(ast.get_docstring(node), _parameters(node))
    yield heading
    yield f"```python\n{_signature(name, node)}\n```"
    yield from told.text
    if told.fields:
        yield table(["parameter", "meaning"], ([f"`{key}`", cell(sentence(meaning))] for key, meaning in told.fields.items()))


def _class(name: str, node: ast.ClassDef) -> Iterator[str]:
    fields = {part.target.id: part for part in node.body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)}
    methods = [part for part in node.body if isinstance(part, _Function)]
    made = [parameter for method in methods if method.name == "__init__" for parameter in _parameters(method)]
    told = described(ast.get_docstring(node), [*fields, *made])
    yield f"## {name}"
    yield from told.text
    yield from _attributes(fields, told)
    for method in methods:
        if (method.name.startswith("_") and method.name != "__call__") or method.name in _FOR_OTHER_MODULES.get(node.name, ()):
            continue
        if any(ast.unparse(decorator).endswith("property") for decorator in method.decorator_list):
            yield f"`{node.name}.{method.name}`: {described(ast.get_docstring(method)).first}".removesuffix(": ")
        else:
            shown = node.name.lower() if method.name == "__call__" else f"{node.name}.{method.name}"
            yield from _function(f"### {node.name}.{method.name}", shown, method)


def _attributes(fields: dict[str, ast.AnnAssign], told: Described) -> Iterator[str]:
    """All fields of a dataclass; of another class what its docstring describes."""
    if fields:
        rows = ((name, ast.unparse(field.annotation), told.fields.get(name, "")) for name, field in fields.items())
        yield table(
            ["field", "type", "meaning"], ([f"`{name}`", f"`{cell(kind)}`", cell(sentence(meaning))] for name, kind, meaning in rows)
        )
    elif told.fields:
        yield table(["attribute", "meaning"], ([f"`{name}`", cell(sentence(meaning))] for name, meaning in told.fields.items()))


def _parameters(node: _Function) -> list[str]:
    return [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]


def _signature(name: str, node: _Function) -> str:
    given = node.args
    plain = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(plain) - len(given.defaults)) + list(given.defaults)
    parameters = [_parameter(one, default) for one, default in zip(plain, defaults, strict=True) if one.arg not in ("self", "cls")]
    if given.vararg:
        parameters.append(f"*{_parameter(given.vararg, None)}")
    elif given.kwonlyargs:
        parameters.append("*")
    parameters += [_parameter(one, default) for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    if given.kwarg:
        parameters.append(f"**{_parameter(given.kwarg, None)}")
    returned = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{name}({', '.join(parameters)}){returned}"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {parameter}," for parameter in parameters), f"){returned}"])


def _parameter(one: ast.arg, default: ast.expr | None) -> str:
    annotation = f": {ast.unparse(one.annotation)}" if one.annotation else ""
    value = "" if default is None else f" = {ast.unparse(default)}" if annotation else f"={ast.unparse(default)}"
    return f"{one.arg}{annotation}{value}"
