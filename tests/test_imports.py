"""Who may import whom (`tools/rooms.py`), that nobody imports in circles, and what `import sparsecc` must not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx as nx
import pytest

import sparsecc
from tools.rooms import GROUND, ROOMS

ROOT = Path(sparsecc.__file__).parent
OUTSIDE = ("models", "tests", "benchmarks", "tools")


@cache
def modules() -> dict[str, Path]:
    """Dotted name → file, of everything in sparsecc."""
    files = sorted(ROOT.rglob("*.py"))
    return {".".join(("sparsecc", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path for path in files}


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names that a file imports, at its top or when a function runs; those for type checkers alone left out."""
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import of {node.module}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (given.value for given in node.args if isinstance(given, ast.Constant) and isinstance(given.value, str))


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _statements(node)


@cache
def arrows() -> dict[str, list[str]]:
    """By module, what it imports, `sparsecc` itself included; the names that that one loads when they are used count as its own."""
    found = {name: list(imports(ast.parse(path.read_text()))) for name, path in modules().items()}
    found["sparsecc"].extend(sparsecc._HOMES.values())
    return found


def room(name: str) -> str:
    """sparsecc.formats.csr → formats; sparsecc itself → __init__."""
    return (*name.split("."), "__init__")[1]


def is_ours(name: str) -> bool:
    return name == "sparsecc" or name.startswith("sparsecc.")


BACKENDS = {path.parent.name for path in (ROOT / "codegen").glob("*/backend.py")}


def backend(name: str) -> str | None:
    """sparsecc.codegen.cpu.target → cpu; None for what backends share."""
    parts = name.split(".")
    return parts[2] if parts[1:2] == ["codegen"] and len(parts) > 2 and parts[2] in BACKENDS else None


def test_backends_do_not_know_each_other_and_nothing_shared_knows_one() -> None:
    """But for `backend.named`, which finds them by their folders."""
    assert {"cpu", "cuda", "reference"} == BACKENDS
    wrong = [
        f"{name} imports {imported}"
        for name, targets in arrows().items()
        if room(name) == "codegen"
        for imported in targets
        if backend(imported) not in (None, backend(name))
    ]
    assert wrong == []


def strays(found: dict[str, list[str]]) -> list[str]:
    """Every import that the table does not know, in words."""
    allowed: dict[str, set[str]] = {}
    for each in GROUND:
        allowed[each.name] = {*allowed, each.name}
    allowed |= {each.name: {*(ground.name for ground in GROUND), each.name, *each.imports} for each in ROOMS}
    unknown = [f"{name}: the room {room(name)} is not in the table" for name in found if room(name) not in allowed]
    wrong = [
        f"{name} imports {imported}"
        for name, targets in found.items()
        for imported in targets
        if imported.startswith(OUTSIDE) or (is_ours(imported) and room(imported) not in allowed.get(room(name), {room(imported)}))
    ]
    return unknown + wrong


def circles(found: dict[str, list[str]]) -> list[list[str]]:
    """Modules that import each other, directly or by way of others."""
    graph = nx.DiGraph()
    for name, targets in found.items():
        for imported in filter(is_ours, targets):
            target = imported if imported in found else imported.rpartition(".")[0]
            if target in found and target != name:
                graph.add_edge(name, target)
    return [sorted(together) for together in nx.strongly_connected_components(graph) if len(together) > 1]


def test_imports_follow_the_table() -> None:
    assert strays(arrows()) == [], "see tools/rooms.py"


def test_the_table_has_an_order_and_no_arrow_that_nobody_needs() -> None:
    names = [each.name for each in ROOMS]
    upward = [f"{each.name} -> {name}" for each in ROOMS for name in each.imports if name not in names[: names.index(each.name)]]
    assert upward == []
    needed = {(room(name), room(imported)) for name, targets in arrows().items() for imported in targets if is_ours(imported)}
    idle = [f"{each.name} -> {name}" for each in ROOMS for name in each.imports if (each.name, name) not in needed]
    assert idle == [], "nothing imports that any more: take it out of tools/rooms.py"
    assert {each.name for each in (*GROUND, *ROOMS)} == {room(name) for name in modules()}


def test_nobody_imports_in_circles() -> None:
    """Not in functions either: there, a circle waits for the caller that comes by the other way."""
    assert circles(arrows()) == []


def test_every_kind_of_stray_is_named() -> None:
    source = "import sparsecc\nfrom tests.laws import hosts\ndef late():\n    from sparsecc.passes.pack import Pack\n"
    found = {
        "sparsecc.formats.new": list(imports(ast.parse(source))),
        "sparsecc.passes.pack": ["sparsecc.formats.new"],
        "sparsecc.attic": [],
    }
    assert strays(found) == [
        "sparsecc.attic: the room attic is not in the table",
        "sparsecc.formats.new imports sparsecc",
        "sparsecc.formats.new imports tests.laws.hosts",
        "sparsecc.formats.new imports sparsecc.passes.pack.Pack",
    ]
    assert circles(found) == [["sparsecc.formats.new", "sparsecc.passes.pack"]]
    assert list(imports(ast.parse("if TYPE_CHECKING:\n    import sparsecc.api\n"))) == []


LIGHT = [
    "sparsecc",
    "sparsecc.registry",
    "sparsecc.recipe",
    "sparsecc.formats",
    "sparsecc.patterns",
    "sparsecc.structures",
    "sparsecc.precisions",
    "sparsecc.passes.quantize",
    "sparsecc.criteria",
    "sparsecc.refinements",
    "sparsecc.allocations",
    "sparsecc.attention",
    "sparsecc.passes",
    "sparsecc.graph",
    "sparsecc.graph.base",
    "sparsecc.graph.sites",
    "sparsecc.ops.base",
    "sparsecc.passes.pack",
    "sparsecc.train",
    "sparsecc.passes.reorder_tokens",
    "sparsecc.report.base",
    "sparsecc.codegen.backend",
    "sparsecc.codegen.cpu.target",
]


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_no_framework(module: str) -> None:
    script = f"import sys, {module}; print([m for m in ('torch', 'tvm', 'onnx', 'onnx_ir', 'onnxruntime') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
