from __future__ import annotations

import sys
from dataclasses import replace
from html.parser import HTMLParser

from sparsecc.report.base import HeadReport
from sparsecc.report.html import page, sensitivity_page
from tests.report import test_sensitivity
from tests.report.example import REPORT, SITES


class Rows(HTMLParser):
    def __init__(self):
        super().__init__()
        self.rows, self.links = 0, []

    def handle_starttag(self, tag, attrs):
        self.rows += tag == "tr"
        self.links += [value for name, value in attrs if name in ("src", "href")]


def test_the_page_is_whole_and_stands_alone():
    parser = Rows()
    parser.feed(page(REPORT))
    assert parser.rows == 1 + len(SITES)
    assert not parser.links


def test_names_are_escaped_and_reasons_told():
    text = page(REPORT)
    assert "encoder.&lt;fc1&gt;" in text and "<fc1>" not in text
    assert all(site.reason in text for site in SITES)


def test_the_page_of_a_sensitivity_has_its_table_and_its_picture(monkeypatch):
    text = sensitivity_page(test_sensitivity.REPORT)
    parser = Rows()
    parser.feed(text)
    assert parser.rows == 1 + len(test_sensitivity.SITES)
    assert [link[:22] for link in parser.links] == ["data:image/png;base64,"]
    assert "encoder.&lt;fc1&gt;" in text and "<fc1>" not in text
    assert "skipped: too odd (head)" in text and "border-collapse" in text
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "<img" not in sensitivity_page(test_sensitivity.REPORT)


def test_the_page_has_a_table_of_heads():
    heads = (HeadReport(order="FWH", density=0.25, lost=0.0123), HeadReport(order="HWF", density=1.0))
    site = replace(SITES[0], heads=heads)
    parser = Rows()
    text = page(replace(REPORT, sites=(site, *SITES[1:])))
    parser.feed(text)
    assert parser.rows == 1 + len(SITES) + 1 + len(heads)
    assert "<summary>encoder.&lt;fc1&gt;: 2 heads</summary>" in text
    assert "<td>0</td><td>FWH</td><td>0.250</td><td>0.012</td><td></td>" in text
