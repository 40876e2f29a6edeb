from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.codegen.cpu.pieces import matvec
from sparsecc.codegen.cpu.target import parse
from sparsecc.codegen.spec import MatmulSpec, ceil_div


@pytest.mark.parametrize("cpu", ["znver4", "haswell", "cortex-a76"])
@settings(deadline=None, derandomize=True)
@given(rows=st.integers(1, 300), tokens=st.integers(1, 20), scratch=st.integers(1, 2))
def test_space(cpu: str, rows: int, tokens: int, scratch: int) -> None:
    target = parse(f"cpu:{cpu}", 2)
    found = matvec.space(MatmulSpec.linear(rows, 24, tokens, 1), target, scratch=scratch)
    assert found
    for knobs in found:
        assert knobs.rows % target.lanes == 0
        assert 1 <= knobs.parts <= ceil_div(rows, knobs.rows)
        assert knobs.tokens <= tokens
        assert knobs.tokens * (knobs.rows // target.lanes + scratch) + 2 <= target.registers


def test_threads_have_the_same_work() -> None:
    target = parse("cpu:znver4", 2)
    assert matvec.space(MatmulSpec.linear(32, 24, 1, 1), target)[0].rows == 16  # two blocks, not one
    assert matvec.space(MatmulSpec.linear(4096, 24, 1, 1), target)[0].parts == 2


def test_high_blocks_come_first_where_tokens_need_no_registers_besides() -> None:
    spec, target = MatmulSpec.linear(4096, 24, 2, 1), parse("cpu:znver4", 2)
    assert [matvec.space(spec, target, scratch=scratch)[0].rows for scratch in (1, 2)] == [64, 32]


def test_blocks_divide_what_shares_its_inputs() -> None:
    target = parse("cpu:znver4", 2)
    spec = MatmulSpec.linear(64, 24, 1, 1)
    assert {knobs.rows for knobs in matvec.space(spec, target, block_rows=32)} == {16, 32}
    assert matvec.space(spec, target, block_rows=4) == []


@pytest.mark.parametrize(("rows", "want"), [(3, [0, 1, 2, -1]), (8, [0, 1, 2, 3, 4, 5, 6, 7]), (6, [0, 1, 2, 3, 2, 3, 4, 5])])
def test_the_last_block_overlaps_the_one_before(rows: int, want: list[int]) -> None:
    found = matvec.in_blocks(np.arange(1, rows + 1), 4)
    assert found.tolist() == [number + 1 for number in want]
