from __future__ import annotations

import json

from sparsecc.codegen.cpu import roofline


def test_everything_is_told(call, tmp_path, monkeypatch):
    monkeypatch.setattr(roofline, "DRAM_BYTES", 4 << 20)
    monkeypatch.setattr(roofline, "_SECONDS", 0.01)
    code, text, errors = call("doctor", "--json", tmp_path / "d.json")
    assert (code, errors) == (0, [])
    data = json.loads((tmp_path / "d.json").read_text())
    assert all(rate > 0 for figures in data["measured"].values() for rate in figures.values())
    assert set(data["measured"]["peak_gops"]) == {"float32", "bfloat16", "int8"}
    assert data["backends"]["apache-tvm"] and "apache-tvm" in text
    assert "GOP/s" in text and "GB/s" in text
