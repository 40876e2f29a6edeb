"""Docstrings of this project as data.

A field or parameter is described by `name: meaning`, at the beginning of a line or after two spaces; several names may share a meaning, as
in `targets, ignore: ...`. A description ends at the next one or at an empty line. All else is text, in paragraphs.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Described:
    """text: paragraphs as Markdown.  fields: name → meaning, in the order of the docstring."""

    text: tuple[str, ...] = ()
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def first(self) -> str:
        """The first paragraph, empty where there is no text."""
        return self.text[0] if self.text else ""


def described(docstring: str | None, names: Iterable[str] = ()) -> Described:
    """A docstring, taken apart. names: the fields or parameters that it may describe."""
    text: list[str] = []
    fields: dict[str, str] = {}
    for paragraph in inspect.cleandoc(docstring or "").split("\n\n"):
        before, found = _split(paragraph, sorted(names, key=len, reverse=True))
        fields.update(found)
        if before.strip():
            text.append(_markdown(before))
    return Described(tuple(text), fields)


def described_class(cls: type, names: Iterable[str]) -> Described:
    """The docstring of a class; what it does not say of a field, its bases may."""
    names = tuple(names)
    own = described(cls.__doc__, names)
    inherited: dict[str, str] = {}
    for base in reversed(cls.__mro__[1:-1]):
        inherited.update(described(base.__doc__, names).fields)
    return Described(own.text, {**inherited, **own.fields})


def cell(text: str) -> str:
    """Text as it may stand in the cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def sentence(text: str) -> str:
    """With a capital letter."""
    return text[:1].upper() + text[1:]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head)]
    lines += [["---"] * len(lines[0]), *(list(row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _split(paragraph: str, names: list[str]) -> tuple[str, dict[str, str]]:
    """What stands before the first description, and the descriptions."""
    if not names:
        return paragraph, {}
    name = "|".join(map(re.escape, names))
    starts = list(re.finditer(rf"(?:^|(?<=\n)|(?<=  ))((?:{name})(?:, (?:{name}))*): ", paragraph))
    if not starts:
        return paragraph, {}
    ends = [start.start() for start in starts[1:]] + [len(paragraph)]
    found = {}
    for start, end in zip(starts, ends, strict=True):
        meaning = " ".join(paragraph[start.end() : end].split())
        found.update(dict.fromkeys(start[1].split(", "), meaning))
    return paragraph[: starts[0].start()], found


def _markdown(paragraph: str) -> str:
    """A paragraph; one with arrows from before to after, or an indented one, is code."""
    lines = paragraph.splitlines()
    if all(line.startswith("    ") for line in lines) or any("  ->  " in line for line in lines):
        return "\n".join(["```text", *inspect.cleandoc(paragraph).splitlines(), "```"])
    return "\n".join(line.rstrip() for line in lines).strip()
