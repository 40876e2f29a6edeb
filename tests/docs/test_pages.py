"""Pages that show code with what it prints: both are true."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from tools.reference import DOCS

SHOWN = re.compile(r"^```python\n(.*?)^```\n^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if SHOWN.search(page.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_code_prints_what_the_page_says(page: Path) -> None:
    names: dict[str, object] = {}
    for code, said in SHOWN.findall(page.read_text()):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        assert printed.getvalue() == said
