from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.codegen.cuda.kernel import LinearSpec, Weights
from sparsecc.codegen.cuda.pack_groups import FORMS, PIECE, TILE, form, pack, pieces, tiles, unpack

DENSE, SPARSE = "int4 g128", "2:4 int4 g128"


def weights(spec: LinearSpec, seed: int) -> Weights:
    """Random numbers; of a 2:4 form up to two of four that are not the zero point."""
    random, kind = torch.Generator().manual_seed(seed), form(spec.form)
    groups, most = -(-spec.depth // (kind.group or spec.depth)), 1 << kind.bits - 1
    numbers = torch.randint(-most, most, (spec.rows, spec.depth), generator=random).to(torch.int8)
    scales = torch.rand(spec.rows, groups, generator=random).to(getattr(torch, spec.dtype)).float()
    zeros = torch.randint(-8, 8, (spec.rows, groups), generator=random).to(torch.int8) if kind.zeros else None
    if kind.sparse:
        nothing = torch.zeros_like(numbers) if zeros is None else zeros.repeat_interleave(PIECE // kind.groups, 1)[:, : spec.depth]
        quartets = -(-spec.depth // 4)
        order = torch.rand(spec.rows, quartets, 4, generator=random).argsort(-1)
        keep = order < torch.randint(0, 3, (spec.rows, quartets, 1), generator=random)
        numbers = torch.where(keep.reshape(spec.rows, -1)[:, : spec.depth], numbers, nothing)
    return Weights(numbers, scales, zeros)


@given(
    st.sampled_from(FORMS),
    st.integers(1, 70),
    st.integers(1, 40),
    st.sampled_from(["bfloat16", "float16"]),
    st.booleans(),
    st.integers(0, 9),
)
def test_unpack_is_its_inverse(name: str, rows: int, eighths: int, dtype: str, gated: bool, seed: int) -> None:
    spec = LinearSpec(name, rows * 2 if gated else rows, eighths * 8, 8, dtype, gated=gated)
    given_weights = weights(spec, seed)
    packed = pack(given_weights, spec)
    assert packed.shape == (tiles(spec), pieces(spec), form(name).piece_bytes)
    found = unpack(packed, spec)
    assert torch.equal(found.numbers, given_weights.numbers)
    assert found.scales is not None and given_weights.scales is not None and torch.equal(found.scales, given_weights.scales)
    assert (found.zeros is None) == (given_weights.zeros is None)
    assert found.zeros is None or given_weights.zeros is None or torch.equal(found.zeros, given_weights.zeros)


@pytest.mark.parametrize(("name", "bits"), [(DENSE, 4.125), (SPARSE, 3.125), ("int8", 8.125), ("int4 g32 zeros", 4.75)])
def test_bits_of_a_weight(name: str, bits: float) -> None:
    assert form(name).piece_bytes * 8 / TILE / PIECE == bits


def test_a_lane_of_a_dense_instruction_holds_what_the_other_factor_reads_at_once() -> None:
    """Lane 4g + q, instruction 2 · chunk + step: inputs 32 chunk + 8 q + 4 step and the three after it, of rows g and g + 8."""
    spec = LinearSpec(DENSE, TILE, PIECE, 8)
    numbers = torch.zeros(TILE, PIECE, dtype=torch.int8)
    numbers[3 + 8, 32 * 2 + 8 * 1 + 4 * 1 + 3] = 5  # register 3, second number
    words = pack(Weights(numbers, torch.ones(TILE, 1)), spec)[0, 0, : form(DENSE).places_at].view(torch.int32).reshape(2, 32, 4)
    quad, word = divmod(2 * 2 + 1, 4)
    assert int(words[quad, 4 * 3 + 1, word]) & 0xFFFFFFFF == 0xD8888888
    assert (words != -0x77777778).sum() == 1


def test_zero_points_are_what_2_to_4_leaves_out() -> None:
    spec = LinearSpec("2:4 int4 g32 zeros", 1, 8, 8)
    numbers = torch.tensor([[3, 7, 3, 3, 3, 3, 3, 3]], dtype=torch.int8)
    given_weights = Weights(numbers, torch.ones(1, 1), torch.tensor([[3]], dtype=torch.int8))
    assert torch.equal(unpack(pack(given_weights, spec), spec).numbers, numbers)


REFUSED = [
    ("numbers are beyond -8 to 7", DENSE, Weights(torch.full((1, 8), 8, dtype=torch.int8), torch.ones(1, 1))),
    ("scales are no bfloat16 numbers", DENSE, Weights(torch.ones(1, 8, dtype=torch.int8), torch.full((1, 1), 0.1))),
    ("more than two weights that are not zero", SPARSE, Weights(torch.ones(1, 8, dtype=torch.int8), torch.ones(1, 1))),
    ("scales are needed", DENSE, Weights(torch.ones(1, 8, dtype=torch.int8))),
    ("zero points where the form has them", "int4 g32 zeros", Weights(torch.ones(1, 8, dtype=torch.int8), torch.ones(1, 1))),
]


@pytest.mark.parametrize(("reason", "name", "refused"), REFUSED)
def test_what_a_form_cannot_hold(reason: str, name: str, refused: Weights) -> None:
    with pytest.raises(ValueError, match=reason):
        pack(refused, LinearSpec(name, 1, 8, 8))
