from __future__ import annotations

import dataclasses
import json
import math

import pytest

from sparsecc.report.base import Check, HeadReport, Report, totals
from tests.report.example import REPORT, SITES


def test_the_json_is_designs_contract():
    data = json.loads(REPORT.to_json())
    assert set(data) == {"sparsecc", "model", "target", "sites", "totals", "check", "measured", "notes", "kernels"}
    assert set(data["sites"][0]) == {
        *("name", "kind", "shape", "pattern", "sparsity", "dtype", "format", "bytes_dense", "bytes_packed", "kernel"),
        *("predicted_us", "measured_us", "dense_us", "bound_us", "output_error", "decision", "reason", "refused", "heads"),
    }
    assert set(data["check"]) == {"max_abs", "max_rel", "cosine", "against", "reason"}


HEADS = (HeadReport(order="FWH", density=0.25, lost=0.01, error=0.02), HeadReport(order="", density=1.0))


def test_round_trip_through_json():
    assert Report.from_dict(json.loads(REPORT.to_json())) == REPORT
    bare = Report(sparsecc="1", model="m", target="cpu")
    assert Report.from_dict(json.loads(bare.to_json())) == bare
    noted = dataclasses.replace(REPORT, notes=("a",), sites=(dataclasses.replace(SITES[0], refused=("prune: no",), heads=HEADS),))
    assert Report.from_dict(json.loads(noted.to_json())) == noted


@pytest.mark.parametrize("data", [[], {}, {"sites": [], "colour": 1}, {"sites": [{"name": "a", "weight": 1}]}])
def test_other_json_is_refused(data):
    with pytest.raises((ValueError, KeyError, TypeError)):
        Report.from_dict(data)


def test_totals_count_what_runs():
    sums = totals(SITES)
    assert (sums["sites"], sums["sparse"], sums["dense"], sums["skipped"]) == (3, 1, 1, 1)
    assert sums["bytes_dense"] == 3000 and sums["bytes_kept"] == 400 + 1000 + 1000
    assert sums["dense_us"] == 200 and sums["chosen_us"] == 40 + 100  # the second site's sparse kernel lost
    assert totals(())["sparsity"] == 0


def test_a_quantized_layer_has_its_dtype_at_the_head_of_its_format():
    plain = dataclasses.replace(SITES[0], decision="dense", shape=(10, 5), bytes_dense=200, bytes_packed=60)
    assert not dataclasses.replace(plain, dtype="float32", format="csr").quantized
    int8 = dataclasses.replace(plain, dtype="int8", format="int8:calibrated/csr")
    assert int8.quantized and int8.bytes_kept == 50
    other = dataclasses.replace(plain, dtype="e4m3", format="e4m3/csr")
    assert other.quantized and other.bytes_kept == 60
    assert not dataclasses.replace(other, dtype="e4m", format="e4m3").quantized


def test_written_files(tmp_path):
    text = REPORT.to_json(tmp_path / "r.json")
    assert (tmp_path / "r.json").read_text() == text
    assert REPORT.to_html(tmp_path / "r.html") == (tmp_path / "r.html").read_text()


def test_check_is_optional():
    assert Check(max_abs=0, max_rel=0, cosine=1) != REPORT.check


def test_what_json_has_no_words_for_is_null():
    site = dataclasses.replace(REPORT.sites[0], output_error=math.nan)
    report = dataclasses.replace(REPORT, sites=(site,), check=Check(max_abs=math.inf, max_rel=math.inf, cosine=-1.0))
    data = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert data["sites"][0]["output_error"] is None and data["check"]["max_rel"] is None
    assert Report.from_dict(data).check == report.check
