"""Tables of `benchmarks/results/` inside pages that are written by hand.

A page says `<!-- results: NAME -->`, or `<!-- results: NAME; rows: A, B; columns: C, D -->` for a part of the first table, and ends what is
put there by `<!-- end of results -->`.
"""

from __future__ import annotations

import re
from pathlib import Path

from tools.reference.docstrings import table

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
_END = "<!-- end of results -->"
_BLOCK = re.compile(rf"(<!-- results: ([^;>]+?)(?:; rows: ([^;>]+?))?(?:; columns: ([^;>]+?))? -->\n).*?({_END})", re.DOTALL)


def has_tables(path: Path) -> bool:
    return "<!-- results: " in path.read_text()


def filled(path: Path) -> str:
    """The page with its tables as `benchmarks/results/` has them now. Raises ValueError for a block without an end."""
    text = path.read_text()
    if text.count("<!-- results: ") != len(_BLOCK.findall(text)):
        raise ValueError(f"{path}: a block '<!-- results: NAME -->' lacks its '{_END}'")
    return _BLOCK.sub(lambda found: f"{found[1]}\n{_body(found[2], found[3], found[4])}\n\n{found[5]}", text)


def _body(name: str, rows: str | None, columns: str | None) -> str:
    text = (RESULTS / f"{name}.md").read_text().strip()
    if rows or columns:
        return _part(text, _listed(rows), _listed(columns), name)
    lines = [line for line in text.splitlines() if not line.startswith("# ")]  # the page has a title of its own
    return "\n".join(re.sub(r"^#+ ", "#### ", line) for line in lines).strip()


def _listed(text: str | None) -> list[str]:
    return [] if text is None else [entry.strip() for entry in text.split(",")]


def _part(text: str, rows: list[str], columns: list[str], name: str) -> str:
    """Rows by their first cell and columns by their heads, both in the order asked for. Raises ValueError for one that is not there."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    head = cells[0]
    body: dict[str, list[str]] = {}
    for row in cells[2:]:
        body.setdefault(row[0], row)
    for wanted, known in ((rows, list(body)), (columns, head)):
        if missing := [entry for entry in wanted if entry not in known]:
            raise ValueError(f"benchmarks/results/{name}.md has no {missing[0]!r}; it has {', '.join(known)}")
    places = [head.index(column) for column in columns] or range(len(head))
    return table([head[place] for place in places], ([body[row][place] for place in places] for row in rows or list(body)))
