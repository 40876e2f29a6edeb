from __future__ import annotations

import dataclasses

from sparsecc.report import table
from sparsecc.report.base import HeadReport, SiteReport
from tests.report.example import REPORT, SITES


def test_the_table_has_a_row_per_site_and_the_totals():
    text = str(REPORT)
    lines = text.splitlines()
    assert "tiny.onnx on cpu" in lines[0]
    assert all(len(line) <= table.WIDTH for line in lines)
    assert [line.split()[0] for line in lines[2:5]] == [site.name for site in SITES]
    assert "2.50x" in text and "block:4x1" in text
    assert "75%" in lines[2], "of what the machine allows"
    assert "3 sites: 1 sparse, 1 dense, 1 skipped" in text
    assert "dense 200 µs -> chosen 140 µs (1.43x)" in text
    assert "cosine 0.999999" in text
    assert "inputs of errors and check: 2 calibration, 1 random (x 3×24); 2 threads of some CPU" in lines
    assert "skipped: grouped (pool)" in lines


def test_a_layer_that_stayed_dense_has_dense_bytes_and_both_times():
    row = dict(zip(table.columns(), table.cells(SITES[1]), strict=True))
    assert (row["bytes"], row["dense µs"], row["sparse µs"], row["gain"]) == ("100%", "100", "120", "0.83x")


def test_no_escape_codes_and_no_markup():
    assert "\x1b" not in str(REPORT)
    assert "encoder.<fc1>" in str(REPORT)


def test_reasons_are_given_per_site():
    text = REPORT.explain()
    for site in SITES:
        assert site.name in text and site.reason in text


def test_sizes():
    assert table.size(400) == "0.4 kB"
    assert table.size(1_234_567) == "1.2 MB"


def test_a_reason_that_many_sites_share_is_one_line():
    sites = tuple(dataclasses.replace(SITES[2], name=f"pool{number}") for number in range(5))
    assert "skipped: grouped (pool0, pool1, pool2 and 2 more)" in str(dataclasses.replace(REPORT, sites=sites)).splitlines()


def test_names_cannot_break_a_line_or_steer_the_terminal():
    site = dataclasses.replace(SITES[2], name="a\nb\x1b[31m")
    report = dataclasses.replace(REPORT, sites=(site,))
    for text in (str(report), report.explain()):
        assert "\x1b" not in text and "'a\\nb\\x1b[31m'" in text


def test_what_a_later_pass_refused_is_said_beside_what_another_one_did():
    site = dataclasses.replace(SITES[0], refused=("prune: already quantized as int8", "pack: 2.50x faster than dense"))
    report = dataclasses.replace(REPORT, sites=(site,), notes=("recipe: passes[1].prune changed nothing",))
    assert "    refused by prune: already quantized as int8" in report.explain().splitlines()
    assert "refused by prune: already quantized as int8 (encoder.<fc1>)" in str(report).splitlines()
    assert "refused by pack" not in str(report), "the reason has it"
    for text in (str(report), report.explain()):
        assert text.splitlines()[-1] == "note: recipe: passes[1].prune changed nothing"


def test_heads_of_an_attention_have_a_line_each_where_they_differ():
    heads = (HeadReport(order="FWH", density=0.25, lost=0.0123, error=0.5), HeadReport(order="", density=1.0))
    site = SiteReport(name="attn", kind="Attention", shape=(2, 63, 64), decision="sparse", reason="density 0.62", heads=heads)
    lines = table.reasons(dataclasses.replace(REPORT, sites=(site,), notes=())).splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["head", "order", "density", "lost", "mass", "error"],
        ["0", "FWH", "0.250", "0.012", "0.5"],
        ["1", "1.000"],
    ]
    alike = dataclasses.replace(site, heads=(heads[0], heads[0]))
    assert len(table.reasons(dataclasses.replace(REPORT, sites=(alike,), notes=())).splitlines()) == 2
