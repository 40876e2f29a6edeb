"""The tables of benchmarks/structures.py, on made-up numbers, and the layers that it times."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import structures as bench
from benchmarks.structures import LayerErrors, ModelCosine
from sparsecc.structures.monarch import Monarch

ERRORS = [
    LayerErrors("encoder.layer.0.output.dense", 0.5, low_rank=0.4, low_rank_whitened=0.2, monarch=0.5, auto="low_rank:9"),
    LayerErrors("encoder.layer.1.output.dense", 0.5, low_rank=0.1, low_rank_whitened=0.3, monarch=0.1, auto="monarch:2x2:1"),
]


def test_the_tables() -> None:
    times = [
        {
            "rows": 3, "cols": 2, "tokens": 7, "name": "low_rank:9", "params": 0.25,
            "ms": {"median": 1.5, "p10": 1, "p90": 2}, "times_dense": {"median": 3, "p10": 2, "p90": 4},
        }
    ]  # fmt: skip
    text = bench.markdown(ERRORS, [ModelCosine("auto", 0.5, True, 0.75)], times, 2)
    assert "beats plain at 1 of 2" in text
    assert "| output.dense | 0.5 | 0.250 (0.100 to 0.400) | 0.250 (0.200 to 0.300) | 0.300 (0.100 to 0.500) | 1 of 2 |" in text
    assert "| auto | 0.5 | yes | 0.750 |" in text
    assert "| 2 → 3 | 7 | low_rank:9 | 0.250 | 1.50 | 1.00-2.00 | 3.00 | 2.00-4.00 |" in text


@pytest.mark.parametrize("structure", [None, Monarch(2, 4, 2)])
def test_a_layer_is_called_as_it_was_saved(structure, tmp_path) -> None:
    graph = bench._layer(16, 8) if structure is None else bench._substituted(16, 8, structure)
    [y] = bench._call(graph, tmp_path, tokens=3, threads=1)()
    [expected] = graph.run([np.random.default_rng(1).standard_normal((1, 3, 8)).astype(np.float32)]).outputs
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
