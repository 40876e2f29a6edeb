from __future__ import annotations

from dataclasses import replace

from sparsecc.codegen.cpu import roofline
from sparsecc.codegen.cpu.target import detect


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


def test_a_bound_is_the_slower_of_computing_and_reading(monkeypatch) -> None:
    target = replace(detect(2), l1_bytes=1 << 15, l2_bytes=1 << 20)
    monkeypatch.setattr(roofline, "shared_cache_bytes", lambda: 16 << 20)
    monkeypatch.setattr(roofline, "ops_per_s", lambda dtype, _: {"float32": 1e9, "int8": 4e9}[dtype])
    monkeypatch.setattr(roofline, "bytes_per_s", lambda level, _: {"l1": 8e9, "l2": 4e9, "l3": 2e9, "dram": 1e9}[level])
    assert roofline.bound_us(1e6, 1e4, "float32", target) == 1000
    assert roofline.bound_us(1e6, 1e4, "int8", target) == 250
    assert roofline.bound_us(1, 64e3, "int8", target) == 8
    assert roofline.bound_us(1, 2e6, "int8", target) == 500
    assert roofline.bound_us(1, 16e6, "int8", target) == 8000
    assert roofline.bound_us(1, 32e6, "int8", target) == 32000
