"""A hook of mkdocs: pictures of `benchmarks/results/` become part of the site, under `measured/`, wherever a page shows them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
_FOLDER = "measured"
_PICTURE = re.compile(r"\((?:\.\./)+benchmarks/results/([\w-]+\.png)\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    from mkdocs.structure.files import File

    for picture in sorted(RESULTS.glob("*.png")):
        files.append(File.generated(config, f"{_FOLDER}/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """`../../benchmarks/results/NAME.png`, as a page is read in the repository, is `../measured/NAME.png` on the site."""
    above = "../" * page.file.src_uri.count("/")
    return _PICTURE.sub(rf"({above}{_FOLDER}/\1)", markdown)
