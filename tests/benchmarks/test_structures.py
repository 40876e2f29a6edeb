"""The tables of benchmarks/structures.py, on made-up numbers, and the layers that it times."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import structures as bench
from benchmarks.structures import Outcome, Way
from sparsecc.structures.monarch import Monarch

LAYERS = ("encoder.layer.0.output.dense", "encoder.layer.1.output.dense")


def outcome(way: Way, *errors: float) -> Outcome:
    by_layer: dict[str, float] = dict(zip(LAYERS, errors, strict=True))
    return Outcome(way, dict.fromkeys(LAYERS, "low_rank:9"), by_layer, by_layer, cosine=0.75)


def test_the_tables() -> None:
    times = [
        {
            "rows": 3, "cols": 2, "tokens": 7, "name": "low_rank:9", "params": 0.25,
            "ms": {"median": 1.5, "p10": 1, "p90": 2}, "times_dense": {"median": 3, "p10": 2, "p90": 4},
        }
    ]  # fmt: skip
    outcomes = [outcome(way, *errors) for way, errors in zip(bench.WAYS[:3], [(0.4, 0.1), (0.2, 0.3), (0.5, 0.1)], strict=True)]
    text = bench.markdown(outcomes, times, 2)
    assert "calibrated low rank beats plain in 1 of 2 layers; `auto`, calibrated, takes monarch in 1." in text
    assert "| low_rank, plain | 0.5 | 0.25 (0.10 to 0.40) | 0.750 |" in text
    assert "| monarch, calibrated | 0.5 | 0.30 (0.10 to 0.50) | 0.750 |" in text
    assert "| 2 → 3 | 7 | low_rank:9 | 0.250 | 1.50 | 1.00-2.00 | 3.00 | 2.00-4.00 |" in text


@pytest.mark.parametrize("structure", [None, Monarch(2, 4, 2)])
def test_a_layer_is_called_as_it_was_saved(structure, tmp_path) -> None:
    graph = bench._layer(16, 8) if structure is None else bench._substituted(16, 8, structure)
    [y] = bench._call(graph, tmp_path, tokens=3, threads=1)()
    [expected] = graph.run([np.random.default_rng(1).standard_normal((1, 3, 8)).astype(np.float32)]).outputs
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
