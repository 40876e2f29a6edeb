"""Write every generated page, and name those that have changed."""

from __future__ import annotations

from tools.reference import ROOT, generated

for path, text in generated():
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
        print(path.relative_to(ROOT))
