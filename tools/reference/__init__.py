"""Documentation that is made from the code and from measured results: `python -m tools.reference` (`make reference`) writes it.

A test compares what is committed with what would be written, so that no page can fall behind the code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tools import rooms
from tools.reference import commands, families, passes, python, results

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NOTE = "<!-- Do not edit: `make reference` makes this page from the code. -->"

PAGES: dict[str, Callable[[], str]] = {
    "reference/recipe.md": passes.page,
    "reference/families.md": families.page,
    "reference/cli.md": commands.page,
    "reference/python.md": python.page,
    "how-it-works/rooms.md": rooms.page,
}


def generated() -> Iterator[tuple[Path, str]]:
    """Every file that is made as a whole or in part, with the text that it should have."""
    for name, page in PAGES.items():
        title, _, body = page().partition("\n")  # mkdocs takes the title from the first line
        yield DOCS / name, f"{title}\n{NOTE}\n{body}"
    for path in (ROOT / "README.md", *sorted(DOCS.rglob("*.md"))):
        if results.has_tables(path):
            yield path, results.filled(path)
