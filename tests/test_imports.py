"""Who may import whom (DESIGN §2), that nobody imports in circles, and what `import sparsecc` must not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

import sparsecc

ROOT = Path(sparsecc.__file__).parent
# Modules below everything; they import each other at most.
LEAVES = {"errors", "registry", "files", "forms", "least_squares", "memory", "timing", "top", "options", "bits"}
FAMILIES = {"patterns", "formats", "criteria", "refinements", "allocations", "structures", "attention", "precisions"}
ALLOWED = {
    **{family: set() for family in FAMILIES},
    "formats": {"patterns"},  # a format stores the masks of a pattern
    "refinements": {"criteria"},  # what a criterion is told about a format, and the statistics
    "structures": {"formats", "patterns", "criteria"},  # a factor may be sparse, and begin as what a criterion prunes
    "precisions": {"formats"},  # a quantized weight may have its values in a sparse format
    "ops": {"formats", "structures", "attention", "precisions", "graph"},
    # graph, beyond the table: the hosts put operators in, and read their weights back out of a file
    "graph": {"formats", "structures", "attention", "precisions", "ops"},
    "passes": {"graph", "ops", *FAMILIES},
    "train": {"graph", "passes", "recipe_yaml", *FAMILIES},  # passes: what `prune` would do, by the same names and refusals
    "codegen": {"graph", "ops", "formats", "structures", "attention", "precisions"},
    "runtime": {"codegen", "graph", "report"},  # graph: TensorSpec
    "report": set(),
}
STAGES_MEET_IN = {"api", "cli", "recipe", "recipe_text", "recipe_yaml", "__init__", "__main__"}


def modules() -> dict[str, Path]:
    """Dotted name → file, of everything in sparsecc."""
    files = sorted(ROOT.rglob("*.py"))
    return {".".join(("sparsecc", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path for path in files}


def imports(path: Path, *, at_top: bool = False) -> Iterator[str]:
    """Dotted names that a file imports, TYPE_CHECKING left out; at_top: only those that run on import."""
    for node in _statements(ast.parse(path.read_text()), at_top):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _statements(tree: ast.AST, at_top: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if at_top and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield node
        yield from _statements(node, at_top)


def package(name: str) -> str:
    """sparsecc.formats.csr → formats; sparsecc itself → __init__."""
    return (*name.split("."), "__init__")[1]


@pytest.mark.parametrize("name", [name for name in modules() if package(name) not in STAGES_MEET_IN])
def test_imports_follow_the_table(name: str) -> None:
    own = package(name)
    assert own in LEAVES or own in ALLOWED, f"{own} is not in the table"
    allowed = {own, *LEAVES, *ALLOWED.get(own, set())}
    for imported in imports(modules()[name]):
        assert not imported.startswith(("models", "tests", "benchmarks")), f"{name} imports {imported}"
        if imported.startswith("sparsecc."):
            assert package(imported) in allowed, f"{name} imports {imported}"


BACKENDS = {path.parent.name for path in (ROOT / "codegen").glob("*/backend.py")}


def backend(name: str) -> str | None:
    """sparsecc.codegen.cpu.target → cpu; None for what backends share."""
    parts = name.split(".")
    return parts[2] if parts[1:2] == ["codegen"] and len(parts) > 2 and parts[2] in BACKENDS else None


def test_backends_do_not_know_each_other_and_nothing_shared_knows_one() -> None:
    """But for `backend.named`, which finds them by their folders."""
    assert {"cpu", "reference"} == BACKENDS
    wrong = [
        f"{name} imports {imported}"
        for name, path in modules().items()
        if package(name) == "codegen"
        for imported in imports(path)
        if backend(imported) not in (None, backend(name))
    ]
    assert wrong == []


def test_no_import_cycles() -> None:
    known = modules()
    graph = nx.DiGraph()
    for name, path in known.items():
        for imported in imports(path, at_top=True):
            target = imported if imported in known else imported.rpartition(".")[0]
            if target in known and target != name:
                graph.add_edge(name, target)
    # `from sparsecc.family import member` in a family's own file imports its package, which is no cycle of modules
    cycles = [cycle for cycle in nx.simple_cycles(graph) if "sparsecc" not in cycle]
    assert cycles == []


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
