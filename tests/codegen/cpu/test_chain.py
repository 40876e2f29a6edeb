from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sparsecc import structures
from sparsecc.codegen.cpu.chain import Chain, chains, places
from sparsecc.codegen.cpu.tape import Tape
from sparsecc.codegen.spec import Epilogue, MatmulSpec
from sparsecc.structures.base import Factor, Structured
from tests.codegen.cpu.kernels.running import HERE
from tests.laws.members import STRUCTURES
from tests.tolerance import assert_close

ROWS, COLS, V = 40, 24, HERE.lanes
KEYS = ["low_rank:5", "monarch:4x5:2", "monarch:2x1:3", "monarch:1x8:2", "kronecker:4x3:5"]


def stored(key: str) -> Structured:
    return structures.from_key(key).project(torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(0)))


def apply(chain: Chain, x: Tensor) -> Tensor:
    """x: [tiles, features, tile], through every kernel."""
    tape = Tape(HERE, {})
    y = chain.emit(tape, MatmulSpec.linear(ROWS, COLS, len(x), x.shape[2]), [tape.weight(x.numpy())], None)
    tape.run()
    return torch.from_numpy(tape.values(y))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("bias", [False, True])
def test_every_way_is_the_product(key: str, bias: bool) -> None:
    weight, offset = stored(key), torch.arange(ROWS) / 8
    x = torch.randn(2, COLS, V)
    oracle = weight.dense().double() @ x.double() + (offset[:, None] if bias else 0)
    fused, apart = chains(weight, offset.numpy() if bias else None, MatmulSpec.linear(ROWS, COLS, 2, V), HERE)
    assert (len(fused.steps), len(apart.steps)) == (1, 2)
    for chain in (fused, apart):
        assert_close(apply(chain, x), oracle.float())


def test_three_factors_are_three_kernels() -> None:
    weight, offset, x = stored("armor:8"), torch.arange(ROWS) / 8, torch.randn(2, COLS, V)
    [chain] = chains(weight, offset.numpy(), MatmulSpec.linear(ROWS, COLS, 2, V), HERE)
    assert len(chain.steps) == 3
    assert_close(apply(chain, x), (weight.dense().double() @ x.double() + offset[:, None]).float())


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: s.key)
def test_places_are_the_permutation_after_a_factor(structure: structures.Structure) -> None:
    for factor in structure.project(torch.randn(ROWS, COLS)).factors():
        where = places(factor)
        y = torch.arange(len(where), dtype=torch.float32)
        moved = torch.empty_like(y)
        moved[where] = y
        assert torch.equal(moved, factor.permute(y[None])[0])


def test_places_without_a_permutation() -> None:
    assert places(Factor(torch.zeros(2, 3, 4))).tolist() == [*range(6)]


def test_one_tile_is_not_fused() -> None:
    [apart] = chains(stored("low_rank:5"), None, MatmulSpec.linear(ROWS, COLS, 1, V), replace(HERE, threads=2))
    assert len(apart.steps) == 2


def test_the_epilogue_is_the_last_steps() -> None:
    spec = MatmulSpec.linear(ROWS, COLS, 2, V, Epilogue("gelu", residual=True))
    for chain in chains(stored("monarch:4x5:2"), None, spec, HERE):
        *before, last = [step.spec.epilogue for step in chain.steps]
        assert set(before) <= {Epilogue()}
        assert last == spec.epilogue
        assert [step.spec.epilogue for step in chain.bare().steps] == [*before, Epilogue("gelu")]


def test_work_and_words() -> None:
    fused, apart = chains(stored("low_rank:5"), None, MatmulSpec.linear(ROWS, COLS, 2, V), HERE)
    assert fused.flops == apart.flops == 2 * 2 * V * 5 * (ROWS + COLS)
    assert str(fused) == f"structured_matmul 5x{V}+{fused.steps[0].knobs[1].rows}x{V}"
    assert str(apart) == f"structured_matmul 5x{V} then {apart.steps[1].knobs[0].rows}x{V}"
