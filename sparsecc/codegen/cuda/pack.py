"""Weights in the order in which a warp's lanes hold them for `mma.sp`, so that a lane loads its part of a step at once.

One `mma.sp.m16n8k32` of 16-bit numbers takes 16 rows × 32 inputs of a 2:4 weight (PTX ISA 9.0, "Matrix fragments for sparse mma.m16n8k32"):
of each group of four inputs two values and their two places. Here a *step* is such a piece. Lane 4g + q holds, of rows g and g + 8,
the values of the groups q and q + 4. One word of places, of a lane in each pair of lanes, serves a row of 16 inputs; lanes with q < 2 hold
those of even steps and the others those of odd ones, so that two steps share a word per lane.

A lane of the other factor holds the first or second halves of four groups. So that it can read 8 neighbouring inputs at once and swap
halves with its neighbour, the groups of a step stand in another order: group i of the instruction is group `GROUPS[i]` of the inputs.
"""

from __future__ import annotations

import numpy as np

STEP, GROUP, KEPT = 32, 4, 2  # inputs of an instruction, of a group, and how many of these are kept
TILE = 16  # rows of an instruction
VALUE_BYTES, PLACE_BYTES = TILE * STEP // GROUP * KEPT * 2, TILE * STEP // 8  # of a step
GROUPS = tuple(4 * (i % 2) + i // 2 for i in range(STEP // GROUP))


def pack(weight: np.ndarray, rows: int, inputs: int) -> np.ndarray:
    """weight: 16-bit numbers as uint16 [out, in], at most two of every four inputs nonzero.  rows, inputs: of a piece, multiples of 16 and
    of 64.

    Returns uint8 [row pieces, input pieces, bytes]: of each piece the values, by tile of 16 rows and step, then the places, by tile and
    pair of steps. What is missing to whole pieces is zero.

    Raises ValueError for a group with three numbers.
    """
    out, depth = weight.shape
    row_pieces, input_pieces = -(-out // rows), -(-depth // inputs)
    whole = np.zeros((row_pieces * rows, input_pieces * inputs), np.uint16)
    whole[:out, :depth] = weight
    values, places = _compact(whole)  # [rows, groups, 2]
    tiles, steps = rows // TILE, inputs // STEP
    shape = (row_pieces, tiles, 2, 8, input_pieces, steps, 8)  # .., half of a tile, row of a half, .., step, group of a step
    values = values.reshape(*shape, KEPT)[..., GROUPS, :].reshape(*shape[:-1], 2, 4, KEPT)
    fragments = values.transpose(0, 4, 1, 5, 3, 7, 6, 2, 8)  # piece, piece, tile, step, g, q, half of the groups, half of the tile, kept
    nibbles = (places[..., 0] | places[..., 1] << 2).reshape(shape)[..., GROUPS].reshape(*shape[:-1], 2, 4)
    halves = (nibbles.astype(np.uint32) << (4 * np.arange(4, dtype=np.uint32))).sum(-1, dtype=np.uint32)
    words = halves[:, :, 0] | halves[:, :, 1] << 16  # row piece, tile, g, input piece, step, half of the groups
    words = words.reshape(row_pieces, tiles, 8, input_pieces, steps // 2, 2, 2)
    words = words.transpose(0, 3, 1, 4, 2, 5, 6)  # .., pair of steps, g, step of the pair, half: lane 4g + 2·step + half
    parts = [np.ascontiguousarray(part).view(np.uint8).reshape(row_pieces, input_pieces, -1) for part in (fragments, words)]
    return np.concatenate(parts, axis=-1)


def unpack(packed: np.ndarray, rows: int, inputs: int, out: int, depth: int) -> np.ndarray:
    """Inverse of `pack`: uint16 [out, depth]."""
    row_pieces, input_pieces, _ = packed.shape
    tiles, steps = rows // TILE, inputs // STEP
    cut = tiles * steps * VALUE_BYTES
    fragments = np.ascontiguousarray(packed[..., :cut]).view(np.uint16).reshape(row_pieces, input_pieces, tiles, steps, 8, 4, 2, 2, KEPT)
    words = np.ascontiguousarray(packed[..., cut:]).view(np.uint32).reshape(row_pieces, input_pieces, tiles, steps // 2, 8, 2, 2)
    back = np.argsort(GROUPS)
    values = fragments.transpose(0, 2, 7, 4, 1, 3, 6, 5, 8)  # row piece, tile, half, g, input piece, step, half of the groups, q, kept
    values = values.reshape(*values.shape[:6], 8, KEPT)[..., back, :]
    words = words.transpose(0, 2, 4, 1, 3, 5, 6).reshape(row_pieces, tiles, 8, input_pieces, steps, 2)
    halves = np.stack([words & 0xFFFF, words >> 16], 2)[..., None]  # row piece, tile, half, g, input piece, step, half of the groups, 1
    nibbles = (halves >> (4 * np.arange(4, dtype=np.uint32)) & 15).reshape(*halves.shape[:6], 8)[..., back]
    places = np.stack([nibbles & 3, nibbles >> 2], -1).astype(np.int64)
    groups = np.zeros((*values.shape[:-1], GROUP), np.uint16)
    np.put_along_axis(groups, places, values, -1)
    return groups.reshape(row_pieces * rows, input_pieces * inputs)[:out, :depth]


def _compact(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[rows, inputs] → the two values of each group, and their places, ascending and distinct, whatever is zero."""
    groups = weight.reshape(len(weight), -1, GROUP)
    zero = groups & 0x7FFF == 0  # both zeros of a float
    if (np.count_nonzero(zero, axis=-1) < GROUP - KEPT).any():
        raise ValueError("a group of four inputs has more than two weights that are not zero")
    places = np.sort(np.argsort(zero, axis=-1, kind="stable")[..., :KEPT], axis=-1)
    return np.take_along_axis(groups, places, -1), places.astype(np.uint8)
