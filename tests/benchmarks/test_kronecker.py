from __future__ import annotations

from benchmarks import kronecker as bench


def test_all_that_is_timed_has_at_most_a_quarter_of_the_work() -> None:
    for shape in bench.SHAPES:
        found = bench.candidates(shape.rows, shape.cols)
        assert [structure.key.partition(":")[0] for structure in found] == ["low_rank", *["kronecker"] * 4]
        assert all(structure.products(shape.rows, shape.cols) <= bench.WORK * shape.rows * shape.cols for structure in found)
