"""The attention that is timed, and the document and table of it on made-up timings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from benchmarks import block_attention as bench
from benchmarks.block_attention import HALF, ROWS, Row, gather_of
from sparsecc.attention.base import BLOCK, Grid, required
from sparsecc.timing import Timing

GRID = Grid(2, 9, 12, text_tokens=5)
DENSE = "torch"


NARROW = (Row(0.5, at_least=1.6, precision="bfloat16"),)


def document(half: float, gather: float = 0.001, narrow: float = 0.2) -> dict[str, Any]:
    """Of a dense attention that takes 1 s, and `half` s at density 0.5, `narrow` s in bfloat16."""
    rows = (*ROWS[:3], *NARROW)
    seconds = {DENSE: 1.0, HALF: 0.8, ROWS[0].name: 1.5, ROWS[1].name: half, ROWS[2].name: 0.25, NARROW[0].name: narrow}
    seconds |= {gather_of(precision): gather for precision in ("float32", "bfloat16")}
    timings = {name: Timing(name, (value,) * 3) for name, value in seconds.items()}
    found = bench._document(timings, [DENSE], [HALF], rows, dict.fromkeys(seconds, 1e-6))
    return {"heads": 1, "head_dim": 64, "threads": 2, **found, "left_out": {"onnxruntime, Attention": "its scores alone would take 9 GB"}}


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((1, 2, GRID.tokens, bench.HEAD_DIM), np.float32) for name in "qkv"}


@pytest.mark.parametrize("density", [1.0, 0.8])
def test_the_map_has_the_density_and_what_every_head_keeps(density: float) -> None:
    found = bench.block_map(GRID, 3, density)
    assert found.density == pytest.approx(density, abs=1 / GRID.blocks(BLOCK) ** 2)
    assert bool(found.keep[:, required(GRID, BLOCK)].all())
    assert found.orders is not None and found.orders.tolist() == [5, 4, 3]


def test_the_dense_engines_agree(tmp_path: Path) -> None:
    calls, left_out = bench._dense(arrays(), 1, tmp_path)
    assert len(calls) == 3 and not left_out
    assert max(bench._errors(calls).values()) < 1e-5


def test_an_engine_that_would_take_too_much_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "MOST_BYTES", 1.0)
    calls, left_out = bench._dense(arrays(), 1, tmp_path)
    assert list(calls) == [DENSE]
    assert all("its scores alone would take" in reason for reason in left_out.values()) and len(left_out) == 2


def test_engines_that_disagree_are_not_timed() -> None:
    ones = [np.ones(3)]
    with pytest.raises(RuntimeError, match="other and torch disagree"):
        bench._errors({DENSE: lambda: ones, "other": lambda: [np.zeros(3)]})


def test_the_models_are_valid() -> None:
    for model in (bench._three_nodes, bench._one_node):
        onnx.checker.check_model(model((1, 2, 8, 4)), full_check=True)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_compiled_map_is_checked(precision: str, tmp_path: Path) -> None:
    inputs = tuple(torch.from_numpy(array) for array in arrays().values())
    compiled = bench._compiled(inputs, bench.block_map(GRID, 2, 0.8), 1, tmp_path, precision)  # type: ignore[arg-type]
    assert compiled.report.check.max_rel < bench.TOLERANCE[precision] / 5
    assert compiled.report.sites[0].reason.startswith("density 0.8")
    assert compiled.report.sites[0].dtype == precision
    if bench.multiplied(precision, 1):
        assert bench._gather(arrays(), GRID, 1, precision)() == []


def test_torch_in_bfloat16_computes_the_same() -> None:
    q, k, v = (torch.from_numpy(array) for array in arrays().values())
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    [got] = bench._half((q, k, v), 1)()
    assert (torch.from_numpy(got) - expected).abs().max() < bench.TOLERANCE["bfloat16"]


@pytest.mark.parametrize(
    ("half", "gather", "narrow", "good"),
    [(0.5, 0.001, 0.2, True), (0.6, 0.001, 0.2, False), (0.5, 0.1, 0.2, False), (0.5, 0.001, 0.4, False)],
)
def test_promises_are_kept_or_not(half: float, gather: float, narrow: float, good: bool) -> None:
    found = document(half, gather, narrow)
    assert bench.holds(found) is good
    assert all(promise.reached for promise in bench.promises(found)) is (good or gather == 0.1)


def test_the_fastest_dense_is_the_yardstick_and_float32_that_of_narrower_numbers() -> None:
    found = document(0.5)
    assert found["fastest_dense"] == DENSE
    assert [row["speedup"]["median"] for row in found["rows"]] == [1.0, 1.25, pytest.approx(1 / 1.5), 2.0, 4.0, 5.0]
    assert [row["over_float32"] and row["over_float32"]["median"] for row in found["rows"]] == [None] * 5 + [2.5]
    assert [promise.baseline for promise in bench.promises(found)] == [DENSE, DENSE, "float32 at this density"]


def test_the_table() -> None:
    text = bench.table(document(0.5))
    assert "| sparsecc, density 50% | 500 | 500-500 | 2.00 | 2.00-2.00 |  | 1.90 reached | 0.2% | 1.0e-06 |" in text
    assert "| sparsecc, density 50%, bfloat16 | 200 | 200-200 | 5.00 | 5.00-5.00 | 2.50 | 1.60 reached | 0.5% | 1.0e-06 |" in text
    assert "Left out: onnxruntime, Attention: its scores alone would take 9 GB." in text
    assert Row(0.5).name in text
