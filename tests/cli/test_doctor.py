from __future__ import annotations

import json

from sparsecc.runtime import machine


def test_everything_is_told(call, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_COPY_BYTES", 1 << 20)
    monkeypatch.setattr(machine, "_MATMUL_SIZE", 64)
    code, text, errors = call("doctor", "--json", tmp_path / "d.json")
    assert (code, errors) == (0, [])
    data = json.loads((tmp_path / "d.json").read_text())
    assert data["measured"]["fp32_matmul_gflops"] > 0
    assert data["backends"]["apache-tvm"] and "apache-tvm" in text
    assert "GFLOP/s" in text and "GB/s" in text
