from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.machine import machine, one_line


def test_table_escapes_what_would_break_it() -> None:
    assert results.markdown_table(["a", "b"], [["x|y", "two\nlines"]]) == "| a | b |\n| --- | --- |\n| x\\|y | two lines |"


def test_both_files_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    as_json, as_markdown = results.write("speed", {"ms": 1.5}, "| ms |")
    assert json.loads(as_json.read_text()) == {"ms": 1.5}
    assert as_markdown.read_text() == f"| ms |\n\n{one_line()}\n"


def test_machine_names_cpu_cores_and_versions() -> None:
    about = machine()
    assert about["cpu"] and about["cores"] >= 1
    assert about["versions"]["onnxruntime"] and about["versions"]["torch"]
    json.dumps(about)
