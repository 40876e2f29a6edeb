from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.codegen.cuda.kernel import LinearSpec
from sparsecc.codegen.cuda.pack import GROUP, KEPT, PIECE, STEP, TILE, UNIT, interleave, pack, separate, unit_bytes, unpack, value_bytes

DTYPES = (torch.bfloat16, torch.float16, torch.int8, torch.float8_e4m3fn)


def sparse(rows: int, depth: int, seed: int, dtype: torch.dtype = torch.int16) -> torch.Tensor:
    """Any bits of the dtype [rows, depth], of each group of four inputs two, one or none."""
    random = np.random.default_rng(seed)
    groups = -(-depth // GROUP)
    numbers = random.integers(1, 0x7F if dtype.itemsize == 1 else 0x7F00, (rows, groups, GROUP))
    numbers *= random.choice([-1, 1], numbers.shape)
    if not dtype.is_floating_point:
        numbers = np.where(random.random(numbers.shape) < 0.1, -128, numbers)
    keep = random.random((rows, groups, GROUP)).argsort(-1) < random.integers(0, KEPT + 1, (rows, groups, 1))
    kept = torch.from_numpy(np.where(keep, numbers, 0).reshape(rows, -1)[:, :depth].copy())
    return kept.to(torch.int8 if dtype.itemsize == 1 else torch.int16).view(dtype)


def bits(numbers: torch.Tensor) -> torch.Tensor:
    return numbers.view(torch.int8 if numbers.itemsize == 1 else torch.int16)


@given(st.integers(1, 70), st.integers(1, 600), st.sampled_from(DTYPES), st.booleans(), st.integers(0, 9))
def test_unpack_is_its_inverse(out: int, depth: int, dtype: torch.dtype, gated: bool, seed: int) -> None:
    spec = LinearSpec("2:4", 2 * out if gated else out, depth, 8, gated=gated)
    weight = sparse(spec.rows, depth, seed, dtype)
    packed = pack(interleave(bits(weight), spec).view(dtype))
    tiles = -(-out // 8) if gated else -(-out // TILE)
    assert packed.shape == (tiles, -(-depth // PIECE) * PIECE // UNIT, unit_bytes(dtype.itemsize == 1))
    back = separate(bits(unpack(packed, tiles * TILE, depth, dtype)), spec)
    assert torch.equal(back, bits(weight))


def test_a_tile_of_a_gated_layer_holds_both_factors() -> None:
    spec = LinearSpec("2:4", 24, 4, 8, gated=True)
    rows = interleave(torch.arange(24)[:, None], spec)[:, 0].tolist()
    assert rows == [*range(8), *range(12, 20), *range(8, 12), 0, 0, 0, 0, *range(20, 24), 0, 0, 0, 0]


def test_the_instruction_gives_the_product() -> None:
    """On integers in the place of floats: lanes and selectors as the PTX ISA draws them."""
    rows, depth, tokens = 32, 256, 8
    weight = sparse(rows, depth, 3) % 50
    x = np.random.default_rng(4).integers(0, 50, (tokens, depth))
    packed, cut = pack(weight).numpy(), value_bytes(False)
    y = np.zeros((tokens, rows), int)
    for tile, step in np.ndindex(rows // TILE, depth // STEP):
        unit = packed[tile, step // 2]
        values = unit[:cut].view(np.int16).reshape(2, 32, 4, 2)[step % 2].astype(int)
        inputs = x[:, step * STEP : (step + 1) * STEP].T
        y[:, tile * TILE : (tile + 1) * TILE] += _multiplied(values, unit[cut:].view(np.uint32), step % 2, inputs).T
    assert np.array_equal(y, x @ weight.numpy().T.astype(int))


def _multiplied(values: np.ndarray, words: np.ndarray, selector: int, b: np.ndarray) -> np.ndarray:
    """mma.sp.m16n8k32: [16, tokens].  values: [lane, register, 2].  words: of the lanes, of which the selector takes one pair in four."""
    result = np.zeros((TILE, b.shape[1]), int)
    for lane, register in np.ndindex(32, 4):
        g, q = divmod(lane, 4)
        row, group = g + 8 * (register % 2), q + 4 * (register // 2)
        word = int(words[4 * g + 2 * selector + group // 4]) >> 16 * (register % 2)
        nibble = word >> 4 * (group % 4) & 0xF
        for value, place in zip(values[lane, register], (nibble & 3, nibble >> 2), strict=True):
            result[row] += value * b[4 * group + place]
    return result


def test_narrow_numbers_lie_as_wide_ones_do() -> None:
    """A lane's 16 bytes are two steps of four words' halves: bytes 0 and 2 of a word, then 1 and 3."""
    narrow = sparse(TILE, UNIT, 5, torch.int8)
    wide = pack(narrow.to(torch.int16))[0, :1]
    unit = pack(narrow)[0, :1]
    lanes = unit[0, : value_bytes(True)].view(torch.int8).view(32, 2, 2, 2, 2)  # lane, step, half of the step, kept, register
    assert torch.equal(lanes.permute(1, 0, 2, 4, 3), wide[0, : value_bytes(False)].view(torch.int16).view(2, 32, 2, 2, 2).to(torch.int8))
    assert torch.equal(unit[0, value_bytes(True) :], wide[0, value_bytes(False) :])


def test_zeros_of_either_sign_are_not_kept() -> None:
    minus = torch.zeros(TILE, 4, dtype=torch.int16)
    minus[0] = torch.tensor([-0x8000, 0x3F80, -0x8000, 0x3F80])
    assert bits(unpack(pack(minus), 1, 4, torch.int16)).tolist() == [[0, 0x3F80, 0, 0x3F80]]
    small = torch.tensor([[-128, 3, -128, 4]] * TILE, dtype=torch.int8).view(torch.float8_e4m3fn)
    assert bits(unpack(pack(small), 1, 4, torch.float8_e4m3fn)).tolist() == [[0, 3, 0, 4]]


def test_three_of_a_group_are_too_many() -> None:
    with pytest.raises(ValueError, match="more than two weights"):
        pack(torch.ones(TILE, 4, dtype=torch.int8))
