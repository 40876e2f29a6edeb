"""Run the example of the README and write what it prints below it, there and in the first page of the documentation: `make example`.

Times in what it prints are of the machine that runs it: run it where nothing else does.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "start" / "torch.md")
_EXAMPLE = re.compile(r"(<!-- example -->\n```python\n)(.*?)(```\n.*?```text\n)(.*?)(```\n<!-- end of example -->)", re.DOTALL)


def code_of(page: str) -> str:
    """The code of the example. Raises ValueError for a page without one."""
    return _found(page)[2]


def printed_by(page: str) -> str:
    """What the page says that the example prints."""
    return _found(page)[4]


def _found(page: str) -> re.Match[str]:
    found = _EXAMPLE.search(page)
    if found is None:
        raise ValueError("no example between '<!-- example -->' and '<!-- end of example -->'")
    return found


def _run(code: str) -> str:
    """What the code prints. Files that it writes vanish."""
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(printed):
        before = Path.cwd()
        os.chdir(folder)
        try:
            exec(compile(code, "README.md", "exec"), {})
        finally:
            os.chdir(before)
    return printed.getvalue()


if __name__ == "__main__":
    printed = _run(code_of(PAGES[0].read_text()))
    for path in PAGES:
        path.write_text(_EXAMPLE.sub(lambda found: f"{found[1]}{found[2]}{found[3]}{printed}{found[5]}", path.read_text()))
    print(printed, end="")
