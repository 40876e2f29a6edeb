"""The rooms of the house, from the ground up, and which of them each one imports. `tests/test_imports.py` holds the code against it,
`docs/how-it-works/rooms.md` is made from it.

A room is a folder or a file right under `sparsecc/`. It imports only rooms that stand before it here, and of these only those that it
names. Whoever needs another arrow writes it here, if the order allows it; where it does not, something stands in the wrong room.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """holds: what is in it, for readers.  imports: other rooms, besides those of the ground."""

    name: str
    holds: str
    imports: tuple[str, ...] = ()


GROUND = (  # what every room may import; they import each other from left to right at most
    Room("_version", "the version"),
    Room("errors", "errors, and refusals with their reasons"),
    Room("registry", "members of families, found by their file names"),
    Room("options", "fields of passes and methods read from recipes"),
    Room("files", "files that are written whole or not at all"),
    Room("database", "SQLite files of ours: opened, checked, each fault named"),
    Room("memory", "how much memory there is, and giving it back"),
    Room("timing", "measuring times"),
    Room("top", "the largest of many scores"),
    Room("quality", "how close images and videos are to others: PSNR, SSIM"),
    Room("bits", "small numbers in the bits of a byte"),
    Room("least_squares", "weighted least squares under a mask"),
    Room("forms", "`Form`: a weight that is not dense"),
)

ROOMS = (
    Room("ranks", "the processes of a torchrun job, and what they divide"),
    Room("patterns", "which masks there are"),
    Room("formats", "how masks and their weights are stored", ("patterns",)),
    Room("criteria", "what a weight is worth; what may be measured at a layer"),
    Room("refinements", "better masks from masks", ("criteria",)),
    Room("allocations", "one sparsity divided over layers"),
    Room("structures", "factors in the place of a matrix", ("patterns", "formats", "criteria")),
    Room("precisions", "narrow numbers", ("formats",)),
    Room("attention", "block maps of attention", ("allocations",)),
    Room("ops", "the operators that replace layers, one folder each", ("formats", "structures", "precisions", "attention")),
    Room("graph", "models as passes see them, one folder for each host", ("formats", "precisions", "attention", "ops")),
    Room("pruning", "how weights are removed, as a value", ("patterns", "criteria", "refinements", "allocations", "graph")),
    Room("calibration", "samples, and what is measured with them", ("ranks", "criteria", "graph", "pruning")),
    Room("recovery", "how the weights that are left learn", ("graph", "calibration")),
    Room(
        "passes",
        "the passes of a recipe, one file each, and the pipeline",
        (
            "ranks",
            "patterns",
            "formats",
            "criteria",
            "allocations",
            "structures",
            "precisions",
            "attention",
            "ops",
            "graph",
            "pruning",
            "calibration",
            "recovery",
        ),
    ),
    Room("recipe_yaml", "YAML with places for errors"),
    Room("recipe_text", "recipes in one line", ("recipe_yaml",)),
    Room("recipe", "passes from a file, a mapping or a line", ("passes", "recipe_yaml", "recipe_text")),
    Room("train", "masks that change while a torch module trains", ("patterns", "allocations", "graph", "pruning", "recipe_yaml")),
    Room("codegen", "from a graph to a library of kernels", ("formats", "structures", "precisions", "attention", "ops", "graph")),
    Room("report", "what was done and measured, as data, table, page and picture"),
    Room("runtime", "compiled models: called, saved and loaded", ("graph", "codegen", "report")),
    Room(
        "api",
        "what `sparsecc.compile`, `convert` and the others do, where the stages meet",
        (
            "ranks",
            "patterns",
            "precisions",
            "attention",
            "ops",
            "graph",
            "pruning",
            "calibration",
            "passes",
            "recipe",
            "codegen",
            "report",
            "runtime",
        ),
    ),
    Room(
        "autotune",
        "goals of a search, how well models do on held-out samples, what mixtures of rungs cost, and the search",
        ("ranks", "patterns", "graph", "pruning", "calibration", "recipe_yaml", "recipe", "report", "runtime", "api"),
    ),
    Room("integrations", "plans in other libraries' models", ("attention", "ops", "graph", "calibration", "passes", "codegen", "api")),
    Room(
        "__init__",
        "`import sparsecc`: names that are loaded when they are used",
        ("ranks", "attention", "recipe", "train", "codegen", "report", "runtime", "api", "autotune"),
    ),
    Room(
        "cli",
        "the commands",
        ("ranks", "formats", "graph", "calibration", "recipe", "codegen", "report", "runtime", "api", "autotune", "__init__"),
    ),
    Room("__main__", "`python -m sparsecc`", ("cli",)),
)


def page() -> str:
    """docs/how-it-works/rooms.md"""
    ground = [f"- `{room.name}`: {room.holds}" for room in GROUND]
    rows = [f"| `{room.name}` | {room.holds} | {', '.join(f'`{name}`' for name in room.imports)} |" for room in ROOMS]
    return "\n".join([_HEAD, *ground, _MIDDLE, "| room | holds | imports |", "|---|---|---|", *rows, _TAIL])


_HEAD = """# Rooms of the code

A room is a folder or a file right under `sparsecc/`. Each one imports only rooms that stand before it on this page, so that a change
in one room reaches at most those after it. Families of members (formats, criteria and so on) know neither graphs nor passes; operators
build on families, graphs on operators, passes on graphs.

The ground, which every room may import:
"""
_MIDDLE = """
The rooms, from the ground up:
"""
_TAIL = """
`tests/test_imports.py` holds the code against this table, imports inside functions included: each arrow that is not in it, each one in
it that nobody needs, and each circle of modules is an error. Imports for type checkers alone do not count. The table itself is in
`tools/rooms.py`.
"""
