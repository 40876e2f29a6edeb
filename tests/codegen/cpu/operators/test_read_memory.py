from __future__ import annotations

import numpy as np

from sparsecc.codegen.cpu.operators import read_memory
from tests.codegen.cpu.kernels.assembly import hottest_loop
from tests.codegen.cpu.kernels.running import HERE, assembly, call, compiled, random


def test_every_element_counts_as_often_as_it_is_read() -> None:
    x = random(np.random.default_rng(0), HERE.threads, 3 * read_memory.SUMS * HERE.lanes)
    sums = call(compiled(read_memory.build(3 * read_memory.SUMS, 5, HERE)), [x], (HERE.threads, read_memory.SUMS * HERE.lanes))
    np.testing.assert_allclose(sums, 5 * x.reshape(HERE.threads, 3, -1).sum(axis=1), rtol=1e-4, atol=1e-4)


def test_the_loop_reads_memory_into_independent_sums() -> None:
    loop = hottest_loop(assembly(read_memory.build(64 * read_memory.SUMS, 100, HERE), HERE), "vaddps")
    added = [line for line in loop.splitlines() if "vaddps" in line]
    assert len(added) >= read_memory.SUMS
    assert all("(" in line for line in added)
