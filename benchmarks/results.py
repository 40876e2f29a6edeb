"""Where measured tables go: benchmarks/results/NAME.json for programs, NAME.md for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.machine import one_line

FOLDER = Path(__file__).parent / "results"


def write(name: str, document: dict[str, Any], markdown: str) -> list[Path]:
    """Write both files and return their paths. The Markdown gets the machine as its last line."""
    FOLDER.mkdir(exist_ok=True)
    paths = [FOLDER / f"{name}.json", FOLDER / f"{name}.md"]
    paths[0].write_text(json.dumps(document, indent=2) + "\n")
    paths[1].write_text(f"{markdown}\n\n{one_line()}\n")
    return paths


def outcome(measured: str, reached: bool) -> dict[str, Any]:
    """What a document says to `benchmarks.ladder`, under `outcome`. measured: in words."""
    return {"measured": measured, "reached": reached, "date": f"{datetime.now(UTC):%Y-%m-%d}"}


def promise(row: Mapping[str, Any]) -> str:
    """The cell of what was promised and whether it was reached; empty where nothing was."""
    return "" if row["at_least"] is None else f"{row['at_least']:.2f} {'reached' if row['reached'] else 'missed'}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines)
