"""Weights with any zeros as streams of what is kept: 16-bit numbers and the gaps before them in 4 bits.

A *unit* is 8 rows × 1024 inputs. It is 32 streams, one for each lane of a warp: stream 4g + q is row g at the inputs from 32v + 8q to
32v + 8q + 7, which the lane can hold of fragments of `mma.m16n8k16` while it reads 8 neighbouring inputs of X at once. First come the even
inputs, for all v, then the odd ones: 256 positions. An *entry* is a number and its gap, which is how much its position is greater than that
of the entry before, 0 to 15; the first one's is its position. Entries of number 0 lead over wider gaps. Entries come in blocks of 8: 16
bytes of numbers, 4 of gaps. What a stream lacks to whole blocks stands before its first entry, with the same position and number 0.

Streams of one unit are not equally long, and none is padded to another's length. A unit is block 0 of all streams that have one: their
numbers, then their gaps; then block 1, and so on, each from a multiple of 16 bytes on. Where units begin, and the lengths of their streams
in blocks, stand apart, so that a kernel reads both at once. A number that is kept takes 2.6 bytes in all at 60 % of zeros, 2.8 at 80 %.

In a gated layer the strips of 8 rows alternate: 8 rows of the gate, the 8 of the other factor that belong to them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsecc.codegen.cuda.kernel import LinearSpec, Part, Weights

ROWS, CLASSES, WORDS = 8, 4, 128
POSITIONS = 2 * WORDS
LANES, INPUTS = ROWS * CLASSES, CLASSES * POSITIONS
BLOCK, WIDEST = 8, 15  # entries of a block, the widest gap
UNIT = 16  # bytes that `starts` counts in
_AT_ONCE = 2048  # units that are packed at a time, so that what is needed beside the weights stays below a gigabyte


def strips(outputs: int, gated: bool) -> int:
    """Groups of 8 rows of a layer."""
    return -(-outputs // ROWS) * (2 if gated else 1)


def units(depth: int) -> int:
    """Of a strip."""
    return -(-depth // INPUTS)


def parts(spec: LinearSpec) -> dict[str, Part]:
    """What kernels read: where units begin, the lengths of their streams, the units."""
    count = strips(spec.outputs, spec.gated) * units(spec.depth)
    return {"starts": Part("int32", (count + 1,)), "lengths": Part("uint8", (count, LANES)), "W": Part("uint8", (-1,))}


def prepare(weights: Weights, spec: LinearSpec) -> dict[str, Tensor]:
    """The `parts`."""
    data, starts, lengths = pack(weights.numbers, spec.gated)
    return {"starts": starts, "lengths": lengths, "W": data}


def restore(parts: dict[str, Tensor], spec: LinearSpec) -> Weights:
    """Inverse of `prepare`."""
    dtype = getattr(torch, spec.dtype)
    return Weights(unpack(parts["W"], parts["starts"], parts["lengths"], spec.rows, spec.depth, dtype, spec.gated))


def pack(weight: Tensor, gated: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """weight: 16-bit floats [rows, depth].

    Returns the units, uint8; where each begins, int32 [strips · units of a strip + 1], in 16 bytes; and the lengths of their streams, uint8
    [strips · units of a strip, 32].
    """
    order = _order(weight.shape[0], gated, weight.device)
    per_strip = units(weight.shape[1])
    at_once = max(1, _AT_ONCE // per_strip)
    packed = [_pack(_streams(weight, part)) for part in order.split(at_once * ROWS)]
    data, sizes, lengths = (torch.cat(part) for part in zip(*packed, strict=True))
    data = data if len(data) else data.new_zeros(UNIT)  # no tensor without an address
    return data, torch.nn.functional.pad(sizes.cumsum(0), (1, 0)).to(torch.int32), lengths


def unpack(data: Tensor, starts: Tensor, lengths: Tensor, rows: int, depth: int, dtype: torch.dtype, gated: bool = False) -> Tensor:
    """Inverse of `pack`."""
    order = _order(rows, gated, data.device)
    per_strip = units(depth)
    at_once = max(1, _AT_ONCE // per_strip)
    weight = torch.zeros(rows + 1, per_strip * INPUTS, dtype=torch.int16, device=data.device)  # the last row takes what is none
    first = starts[:-1].long() * UNIT
    pieces = order.split(at_once * ROWS), first.split(at_once * per_strip), lengths.split(at_once * per_strip)
    for part, begins, counts in zip(*pieces, strict=True):
        streams = _unpack(data, begins, counts.long()).view(-1, per_strip, ROWS, CLASSES, 2, WORDS // 4, 4)
        weight[part] = streams.permute(0, 2, 1, 5, 3, 6, 4).reshape(len(part), -1)
    return weight[:rows, :depth].contiguous().view(dtype)


def _order(rows: int, gated: bool, device: torch.device) -> Tensor:
    """The row of the weight for each row of the strips; `rows` for none."""
    outputs = rows // 2 if gated else rows
    order = torch.arange(-(-outputs // ROWS) * ROWS, device=device)
    missing = order >= outputs
    if gated:
        order = torch.stack([order.view(-1, ROWS), order.view(-1, ROWS) + outputs], 1).view(-1)
        missing = missing.view(-1, 1, ROWS).expand(-1, 2, -1).reshape(-1)
    return order.masked_fill(missing, rows)


def _streams(weight: Tensor, order: Tensor) -> Tensor:
    """The numbers' bits as int16 [units, lanes, positions]."""
    rows, depth = weight.shape
    per_strip = units(depth)
    whole = torch.zeros(len(order), per_strip * INPUTS, dtype=torch.int16, device=weight.device)
    there = order < rows
    whole[there, :depth] = weight[order[there]].view(torch.int16)
    parts = whole.view(-1, ROWS, per_strip, WORDS // 4, CLASSES, 4, 2).permute(0, 2, 1, 4, 6, 3, 5)
    return parts.reshape(-1, LANES, POSITIONS)


def _pack(numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bytes of the units, how many 16 bytes each is long, and the lengths of their streams."""
    place = torch.arange(POSITIONS, dtype=torch.int32, device=numbers.device)
    kept = numbers & 0x7FFF != 0  # both zeros of a float are zero
    before = torch.where(kept, place, 0).cummax(-1).values
    end = torch.where(kept, place, -1).amax(-1, keepdim=True)
    entry = kept | (place > before) & ((place - before) % WIDEST == 0) & (place < end)
    count = entry.sum(-1)
    lengths = -(-count // BLOCK)
    lacking = lengths * BLOCK - count
    begins, sizes, slots, streams = _places(lengths)
    data = torch.zeros(int(sizes.sum()), dtype=torch.uint8, device=numbers.device)
    starts = sizes.cumsum(0) - sizes
    stream, position = entry.view(-1, POSITIONS).nonzero(as_tuple=True)
    leads = torch.ones_like(stream, dtype=torch.bool)
    leads[1:] = stream[1:] != stream[:-1]
    gap = position - torch.where(leads, 0, position.roll(1))
    rank = (entry.view(-1, POSITIONS).cumsum(-1, dtype=torch.int32) - 1)[stream, position] + lacking.view(-1)[stream]
    values, gaps = _addresses(starts, begins, slots, streams, stream, rank)
    data.view(torch.int16)[values // 2] = numbers.reshape(-1, POSITIONS)[stream, position]
    first = torch.where(leads, rank - lacking.view(-1)[stream], rank)  # the gap of the first entry stands at the first place
    _, leading = _addresses(starts, begins, slots, streams, stream, first)
    gaps = torch.where(leads, leading, gaps)
    odd = torch.where(leads, first, rank) % 2 == 1
    data[gaps[~odd]] = gap[~odd].to(torch.uint8)
    data[gaps[odd]] |= (gap[odd] << 4).to(torch.uint8)
    return data, sizes // UNIT, lengths.to(torch.uint8)


def _unpack(data: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    """int16 [units, lanes, positions] of the units that begin at these bytes."""
    begins, _, slots, streams = _places(lengths)
    numbers = torch.zeros(lengths.numel(), POSITIONS, dtype=torch.int16, device=data.device)
    most = int(lengths.max())
    if not most:
        return numbers.view(-1, LANES, POSITIONS)
    rank = torch.arange(most * BLOCK, device=data.device)
    stream, rank = (rank < lengths.view(-1, 1) * BLOCK).nonzero(as_tuple=True)
    values, gaps = _addresses(starts, begins, slots, streams, stream, rank)
    gap = data[gaps].long() >> rank % 2 * 4 & 15
    total = torch.zeros(lengths.numel(), most * BLOCK, dtype=torch.int64, device=data.device)
    total[stream, rank] = gap
    position = total.cumsum(-1)[stream, rank]
    value = data.view(torch.int16)[values // 2]
    real = value != 0
    numbers[stream[real], position[real]] = value[real]
    return numbers.view(-1, LANES, POSITIONS)


def _places(lengths: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """lengths: of streams in blocks [units, lanes].

    Returns, of each block of a unit, where its bytes begin; the units' bytes; of each block of each stream its rank among
    the streams that have it; and how many streams have each."""
    active = lengths[..., None] > torch.arange(POSITIONS // BLOCK, device=lengths.device)  # unit, lane, block
    streams = active.sum(1)
    size = streams * 16 + -(-streams * 4 // UNIT) * UNIT
    slots = active.cumsum(1, dtype=torch.int32) - 1
    return size.cumsum(-1) - size, size.sum(-1), slots, streams


def _addresses(units: Tensor, begins: Tensor, slots: Tensor, streams: Tensor, stream: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
    """The bytes where entries have their numbers and their gaps.  units: where they begin.  stream, rank: of the entries."""
    unit, lane, block, within = stream // LANES, stream % LANES, rank // BLOCK, rank % BLOCK
    at = units[unit] + begins[unit, block]
    slot = slots[unit, lane, block]
    return at + slot * 16 + within * 2, at + streams[unit, block] * 16 + slot * 4 + within // 2
