"""Weights in the order in which a warp's lanes hold them for `mma.sp`, so that a lane loads its part of a step at once.

One `mma.sp.m16n8k32` of 16-bit numbers takes 16 rows × 32 inputs of a 2:4 weight (PTX ISA 9.0, "Matrix fragments for sparse mma.m16n8k32"):
of each group of four inputs two values and their two places. Here a *step* is such a piece. Lane 4g + q holds, of rows g and g + 8, the
values of the groups q and q + 4. One word of places, of a lane in each pair of lanes, serves a row of 16 inputs; lanes with q < 2 hold
those of even steps and the others those of odd ones, so that two steps, a *unit* of 64 inputs, share a word per lane.

A weight is uint8 [row tiles, units, bytes of a unit]: values, then places. So each run of units of a tile is one piece of memory, and any
kernel may cut the depth where it likes. Of 16-bit numbers each step's values stand for themselves, 16 bytes of a lane. Of 8-bit numbers a
lane's 16 bytes are those of both steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsecc.codegen.cuda.kernel import LinearSpec

STEP, GROUP, KEPT = 32, 4, 2  # inputs of an instruction, of a group, and how many of these are kept
TILE = 16  # rows of an instruction
UNIT, PIECE = 2 * STEP, 256  # inputs that share words of places; to which the depth is filled up
PLACE_BYTES = TILE * UNIT // 8  # of a unit


def narrow_kind(spec: LinearSpec) -> str:
    """int8 or e4m3, or nothing where numbers are of the spec's dtype."""
    return spec.form.removeprefix("2:4").strip()


def packed_tiles(spec: LinearSpec) -> int:
    return -(-spec.outputs // 8) if spec.gated else -(-spec.rows // TILE)


def packed_depth(spec: LinearSpec) -> int:
    return -(-spec.depth // PIECE) * PIECE


def value_bytes(narrow: bool) -> int:
    """Of a unit."""
    return TILE * UNIT // 2 * (1 if narrow else 2)


def unit_bytes(narrow: bool) -> int:
    return value_bytes(narrow) + PLACE_BYTES


def interleave(weight: Tensor, spec: LinearSpec) -> Tensor:
    """[rows, ...] → rows filled up to whole tiles; in a gated layer each tile holds 8 rows of the gate, then the 8 of the other factor."""
    if not spec.gated:
        return _filled(weight, TILE)
    halves = [_filled(half, TILE // 2).unflatten(0, (-1, TILE // 2)) for half in weight.split(spec.outputs)]
    return torch.stack(halves, 1).flatten(0, 2)


def separate(weight: Tensor, spec: LinearSpec) -> Tensor:
    """Its inverse."""
    if not spec.gated:
        return weight[: spec.rows]
    halves = weight.unflatten(0, (-1, 2, TILE // 2)).unbind(1)
    return torch.cat([half.flatten(0, 1)[: spec.outputs] for half in halves])


def _filled(weight: Tensor, multiple: int) -> Tensor:
    missing = -len(weight) % multiple
    return torch.cat([weight, weight.new_zeros(missing, *weight.shape[1:])]) if missing else weight


def pack(numbers: Tensor) -> Tensor:
    """numbers: [tiles · 16, depth] of 16 bits, int8 or float8_e4m3fn, at most two of every four inputs not zero.

    Raises ValueError for a group with three numbers.
    """
    tiles, narrow = len(numbers) // TILE, numbers.itemsize == 1
    bits = torch.nn.functional.pad(numbers.view(torch.uint8 if narrow else torch.int16), (0, -numbers.shape[1] % PIECE))
    values, places = _compact(bits, {torch.int8: 0xFF, torch.float8_e4m3fn: 0x7F}.get(numbers.dtype, 0x7FFF))
    values = values.view(*_shape(tiles), KEPT)
    fragments = values.permute(_NARROW if narrow else _WIDE).contiguous().view(torch.uint8).view(tiles, -1, value_bytes(narrow))
    nibbles = (places[..., 0] | places[..., 1] << 2).view(_shape(tiles))
    octets = nibbles[..., 0::2] | nibbles[..., 1::2] << 4
    words = octets.permute(_WORDS).contiguous().view(tiles, -1, PLACE_BYTES)
    return torch.cat([fragments, words], -1)


def unpack(packed: Tensor, rows: int, depth: int, dtype: torch.dtype) -> Tensor:
    """Inverse of `pack`: [rows, depth]."""
    tiles, narrow = len(packed), dtype.itemsize == 1
    cut, order = value_bytes(narrow), _NARROW if narrow else _WIDE
    bits = packed[..., :cut].contiguous().view(torch.uint8 if narrow else torch.int16)
    shape = (*_shape(tiles, bits.numel() // tiles // TILE // UNIT * 2), KEPT)
    values = bits.view([shape[axis] for axis in order]).permute(_inverse(order))
    octets = packed[..., cut:].reshape([(*shape[:6], 2)[axis] for axis in _WORDS]).permute(_inverse(_WORDS))
    nibbles = torch.stack([octets & 15, octets >> 4], -1).flatten(-2)
    places = torch.stack([nibbles & 3, nibbles >> 2], -1).long()
    groups = torch.zeros((*shape[:-1], GROUP), dtype=values.dtype, device=packed.device).scatter_(-1, places, values)
    return groups.view(tiles * TILE, -1)[:rows, :depth].contiguous().view(dtype)


# Axes of `_shape`, and the numbers of a group, in the order of memory. Of 8-bit numbers a word's bytes 0 and 2 are one register's pair,
# and 1 and 3 the next one's: two masks and a shift tell them apart.
_WIDE, _NARROW = (0, 3, 4, 2, 6, 5, 1, 7), (0, 3, 2, 6, 4, 5, 7, 1)
_WORDS = (0, 3, 2, 4, 5, 1, 6)


def _shape(tiles: int, units: int = -1) -> tuple[int, ...]:
    """Of groups: tile, half of it, row of the half, unit, step, half of the step, group of the half."""
    return (tiles, 2, 8, units, 2, 2, 4)


def _inverse(order: tuple[int, ...]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


def _compact(bits: Tensor, mask: int) -> tuple[Tensor, Tensor]:
    """[rows, inputs] → [rows, groups, 2], the two values of each group, and their places (uint8), ascending and distinct, whatever is zero.
    mask: of the bits that say that a number is not zero."""
    groups = bits.view(len(bits), -1, GROUP)
    flags = (groups & mask != 0).to(torch.uint8) << torch.arange(GROUP, dtype=torch.uint8, device=bits.device)
    table = torch.tensor([_two(number) for number in range(1 << GROUP)], dtype=torch.uint8, device=bits.device)
    places = table[flags.sum(-1)]
    if (places[..., 0] > GROUP).any():
        raise ValueError("a group of four inputs has more than two weights that are not zero")
    return torch.gather(groups, -1, places.long()), places


def _two(flags: int) -> list[int]:
    """The places to keep where these flags are set; impossible ones where that are too many."""
    kept = [place for place in range(GROUP) if flags >> place & 1]
    others = [place for place in range(GROUP) if not flags >> place & 1]
    return [0xFF, 0xFF] if len(kept) > KEPT else sorted((kept + others)[:KEPT])
