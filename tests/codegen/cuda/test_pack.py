from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.codegen.cuda.pack import GROUP, GROUPS, KEPT, PLACE_BYTES, STEP, TILE, VALUE_BYTES, pack, unpack


def sparse(rows: int, depth: int, seed: int) -> np.ndarray:
    """uint16 [rows, depth], of each group of four inputs two, one or none."""
    random = np.random.default_rng(seed)
    groups = -(-depth // GROUP)
    numbers = random.integers(1, 0x7FFF, (rows, groups, GROUP), dtype=np.uint16)
    keep = random.random((rows, groups, GROUP)).argsort(-1) < random.integers(0, KEPT + 1, (rows, groups, 1))
    return np.where(keep, numbers, 0).astype(np.uint16).reshape(rows, -1)[:, :depth]


@given(st.integers(1, 70), st.integers(1, 300), st.sampled_from([16, 32, 64]), st.sampled_from([64, 128, 256]), st.integers(0, 9))
def test_unpack_is_its_inverse(out: int, depth: int, rows: int, inputs: int, seed: int) -> None:
    weight = sparse(out, depth, seed)
    packed = pack(weight, rows, inputs)
    assert packed.shape == (-(-out // rows), -(-depth // inputs), rows // TILE * inputs // STEP * (VALUE_BYTES + PLACE_BYTES))
    assert np.array_equal(unpack(packed, rows, inputs, out, depth), weight)


def test_a_lane_holds_what_the_instruction_wants() -> None:
    """One step, by the fragments that the PTX ISA draws, with the groups of a step in the order of `GROUPS`."""
    weight = sparse(TILE, 2 * STEP, 0)
    weight[:, :] = 0
    weight[9, 32 + 4 * GROUPS[6] + 1], weight[9, 32 + 4 * GROUPS[6] + 3] = 11, 12  # row 1 of the lower half, second step, group 6
    [[piece]] = pack(weight, TILE, 2 * STEP)
    values = piece[: 2 * VALUE_BYTES].view(np.uint16).reshape(2, 32, 4, 2)  # step, lane, register, number
    assert values[1, 4 * 1 + 2, 3].tolist() == [11, 12]  # lane 4g + q of group q + 4, lower rows
    assert np.count_nonzero(values) == 2
    words = piece[2 * VALUE_BYTES :].view(np.uint32)
    word = words[4 * 1 + 2 + 1]  # of the second step, the upper half of its groups
    assert word >> 16 + 4 * 2 & 0xF == 0b1101
    assert all(
        nibble == 0b0100 for nibble in (words[0] >> shift & 0xF for shift in range(0, 32, 4))
    )  # nothing kept: two places all the same


def test_the_instruction_gives_the_product() -> None:
    """The kernel's steps on integers in the place of floats: lanes, the swap of halves and the selectors as the PTX ISA has them."""
    rows, depth, tokens = 32, 256, 8
    weight = sparse(rows, depth, 3) % 50
    weight = np.where(weight, weight, 0).astype(np.uint16)
    x = np.random.default_rng(4).integers(0, 50, (tokens, depth))
    packed = pack(weight, rows, depth)[0, 0]
    cut = rows // TILE * depth // STEP * VALUE_BYTES
    values = packed[:cut].view(np.uint16).reshape(rows // TILE, depth // STEP, 32, 4, 2).astype(int)
    words = packed[cut:].view(np.uint32).reshape(rows // TILE, depth // STEP // 2, 32)
    y = np.zeros((tokens, rows), int)
    for tile, step in np.ndindex(rows // TILE, depth // STEP):
        y[:, tile * TILE : (tile + 1) * TILE] += _multiplied(values[tile, step], words[tile, step // 2], step % 2, _fragments(x, step)).T
    assert np.array_equal(y, x @ weight.T.astype(int))


def _fragments(x: np.ndarray, step: int) -> np.ndarray:
    """[32 inputs of the instruction, tokens]: what lanes hold once neighbours have swapped halves of the 8 inputs that each has read."""
    b = np.zeros((STEP, len(x)), int)
    for lane in range(32):
        token, q = divmod(lane, 4)
        own, other = (x[token, step * STEP + 8 * part : step * STEP + 8 * part + 8].reshape(4, 2) for part in (q, q ^ 1))
        held = [own[0], own[2], other[0], other[2]] if q % 2 == 0 else [other[1], other[3], own[1], own[3]]
        for j, pair in enumerate(held):
            b[8 * j + 2 * q : 8 * j + 2 * q + 2, token] = pair
    return b


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


def test_zeros_of_either_sign_are_not_kept() -> None:
    weight = np.array([[0x8000, 0x3F80, 0x8000, 0x3F80]], np.uint16)
    assert unpack(pack(weight, 16, 64), 16, 64, 1, 4).tolist() == [[0, 0x3F80, 0, 0x3F80]]


def test_three_of_a_group_are_too_many() -> None:
    with pytest.raises(ValueError, match="more than two weights"):
        pack(np.array([[1, 1, 1, 0]], np.uint16), 16, 64)
