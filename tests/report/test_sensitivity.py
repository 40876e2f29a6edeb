from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sparsecc.report.sensitivity import LayerCurve, SensitivityReport, knee

LEVELS = (0.25, 0.5, 0.75)
SITES = (
    LayerCurve(name="encoder.<fc1>", kind="Linear", shape=(8, 4), gain=0.25, errors=(0.01, 0.02, 0.5), layer_errors=(0.1, 0.2, 0.6)),
    LayerCurve(
        name="_odd$name$", kind="Conv2d", shape=(8, 4, 3, 3), gain=2.0, errors=(0.3, 0.4, float("inf")), layer_errors=(0.1, 0.2, 0.6)
    ),
)
REPORT = SensitivityReport(
    sparsecc="0", model="m.onnx", criterion="wanda", pattern="4x1", samples=2, levels=LEVELS, sites=SITES, skipped={"head": "too odd"}
)


def test_the_table_has_a_row_for_each_layer_and_says_what_was_left_out() -> None:
    lines = str(REPORT).splitlines()
    assert lines[0] == "Sensitivity of m.onnx"
    assert lines[1].split() == ["site", "shape", "a", "knee", "0.25", "0.5", "0.75"]
    assert lines[2].split() == ["encoder.<fc1>", "8×4", "0.25", "0.50", "1", "2", "50"]
    assert lines[3].split() == ["_odd$name$", "8×4×3×3", "2", "30", "40", "inf"]
    assert lines[-1] == "skipped: too odd (head)"
    assert "4x1 by wanda, one layer at a time, on 2 samples" in lines[4]


def test_json_has_everything_and_null_where_the_model_overflows(tmp_path: Path) -> None:
    REPORT.to_json(tmp_path / "s.json")
    document = json.loads((tmp_path / "s.json").read_text())
    assert document["sites"][0] | {"knee": 0.5} == document["sites"][0]
    assert document["sites"][1]["errors"] == [0.3, 0.4, None]
    assert document["skipped"] == {"head": "too odd"}
    assert document["levels"] == list(LEVELS)


def test_thirty_six_layers_fit_the_width() -> None:
    levels = tuple(i / 20 for i in range(1, 11))
    names = [f"encoder.layer.{i // 6}.attention.output.dense{i % 6}" for i in range(36)]
    sites = tuple(replace(SITES[0], name=name, shape=(1536, 384), errors=tuple(1e-3 * level for level in levels)) for name in names)
    lines = str(replace(REPORT, sites=sites, levels=levels)).splitlines()
    assert sum(any(line.startswith(name) for name in names) for line in lines) == 36


@pytest.mark.parametrize(
    ("errors", "found"),
    [
        ((0.0, 0.0, 0.0, 1.0), 0.75),
        ((0.01, 0.02, 0.5, 1.0), 0.5),
        ((0.25, 0.5, 0.75, 1.0), None),
        ((0.5, 0.8, 0.9, 1.0), None),
        ((0.0, 0.0, 0.0, 0.0), None),
        ((0.0, 0.1, 0.9, float("inf")), 0.5),
        ((float("inf"),) * 4, None),
    ],
)
def test_the_knee_is_farthest_below_the_chord(errors: tuple[float, ...], found: float | None) -> None:
    assert knee((0.25, 0.5, 0.75, 1.0), errors) == found
