"""The site shows what the repository shows."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

from tools.reference import DOCS, ROOT
from tools.site import on_page_markdown


def shown_on(page: str, markdown: str) -> str:
    where: Any = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    return on_page_markdown(markdown, page=where)


def test_pictures_of_results_are_found_from_every_folder() -> None:
    assert shown_on("index.md", "![a](../benchmarks/results/a-b.png)") == "![a](measured/a-b.png)"
    assert shown_on("measured/quality.md", "![a](../../benchmarks/results/a-b.png)") == "![a](../measured/a-b.png)"


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    missing = [str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if str(page.relative_to(DOCS)) not in navigation]
    assert missing == []


def test_links_and_pictures_lead_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in DOCS.rglob("*.md")
        for link in re.findall(r"\]\((?!http)([^)#\s]+)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
        if not (page.parent / link).exists()
    ]
    assert broken == []
