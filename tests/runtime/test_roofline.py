from __future__ import annotations

from dataclasses import replace

from sparsecc.codegen.target import detect
from sparsecc.runtime import roofline


def test_every_figure_is_measured(monkeypatch) -> None:
    monkeypatch.setattr(roofline, "DRAM_BYTES", 4 << 20)
    monkeypatch.setattr(roofline, "_SECONDS", 0.01)
    found = roofline.measure(detect(1))
    assert set(found.ops_per_s) == {"float32", "bfloat16", "int8"}
    assert {"l1", "l2", "dram"} <= set(found.bytes_per_s)
    assert all(rate > 1e6 for rate in (*found.ops_per_s.values(), *found.bytes_per_s.values()))


def test_third_level_cache_is_left_out_where_there_is_none(monkeypatch) -> None:
    monkeypatch.setattr(roofline, "shared_cache_bytes", lambda: 0)
    assert set(roofline._sizes(detect(1))) == {"l1", "l2", "dram"}
    monkeypatch.setattr(roofline, "shared_cache_bytes", lambda: 64 << 20)
    assert roofline._sizes(replace(detect(2), l2_bytes=1 << 20))["l3"] == 8 << 20
