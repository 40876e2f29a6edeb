"""docs/reference/cli.md: what each command prints for --help."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

from sparsecc.cli import app

_WIDTH = 110
_INTRODUCTION = """# Command line reference

`sparsecc COMMAND --help` prints the same text. Every command that computes something takes `--json FILE`, and `--debug` anywhere shows the
traceback of an error. Files are replaced whole or not at all.

| exit code | meaning |
| --- | --- |
| 0 | what was asked holds |
| 1 | a fault of sparsecc, or outputs that are not those of the model |
| 2 | a mistake in the call, the recipe or a file, or a full disk |
| 130 | stopped by Ctrl-C |
"""


def page() -> str:
    return "\n".join([_INTRODUCTION, *(_section(" ".join(["sparsecc", *names]), names) for names in _commands(get_command(app), []))])


def _commands(command: Any, names: list[str]) -> Iterator[list[str]]:
    """The words of each command, those of groups before their commands'."""
    yield names
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, [*names, name])


def _section(title: str, arguments: list[str]) -> str:
    told = CliRunner().invoke(app, [*arguments, "--help"], prog_name="sparsecc", env={"NO_COLOR": "1"}, terminal_width=_WIDTH)
    if told.exit_code:
        raise RuntimeError(f"{title} --help exits with {told.exit_code}")
    lines = "\n".join(line.rstrip() for line in told.stdout.strip().splitlines())
    return f"## {title}\n\n```text\n{lines}\n```\n"
