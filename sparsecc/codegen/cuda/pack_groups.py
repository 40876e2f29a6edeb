"""Integers of 4 or 8 bits in groups with a scale each, in the order in which a warp's lanes multiply them.

A *piece* is 16 rows × 128 inputs and holds all that a warp needs of them: the numbers, with 2:4 the places of those kept, the scales, and
zero points where the form has them. Pieces of a row of tiles follow one another, so that a kernel copies runs of them whatever its knobs.

    piece = numbers [quads of words, 32 lanes, 4 words]  places [32 lanes, 2 words]  scales [8, groups, 2]  zeros [8, groups, 2]

The fragments are those of `mma.m16n8k16` (dense) and `mma.sp.m16n8k32` (2:4) in the PTX ISA: lane 4g + q holds numbers of rows g and g + 8
in registers 0, 2 and 1, 3. Inputs of an instruction may stand in any order, as long as those of the other factor stand so too. A lane of it
reads 8 neighbouring inputs at once, 8q to 8q + 7 of 32: dense, those are its own of two instructions, the first four of the first. With 2:4
group i of the instruction is group 4 (i % 2) + i // 2 of the inputs, as in `pack.py`.

A word of 4-bit numbers is a lane's part of an instruction: register i has bits 4i and 16 + 4i, so that one shift and one `lop3` give two
numbers in the low bits of two halves. Words of 8-bit numbers hold two registers each, i in the bytes i % 2 and 2 + i % 2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparsecc.codegen.cuda.kernel import LinearSpec, Weights

if TYPE_CHECKING:
    from torch import Tensor

TILE, PIECE = 16, 128  # rows and inputs of a piece
GROUPS = (32, 64, 128)
_LANES = 32
_QUARTET = 4  # of which 2:4 keeps two
_DTYPES = ("bfloat16", "float16")


@dataclass(frozen=True)
class Form:
    """bits: of a number.  sparse: whether of four two are kept.  group: inputs that share a scale, or all of a row.  zeros: whether each
    group has a zero point too."""

    bits: int
    sparse: bool
    group: int | None
    zeros: bool

    @property
    def step(self) -> int:
        """Inputs of an instruction."""
        return 32 if self.sparse else 16

    @property
    def steps(self) -> int:
        """Instructions of a piece."""
        return PIECE // self.step

    @property
    def words(self) -> int:
        """Of numbers in a piece, for each lane."""
        return self.steps * self.bits // 4

    @property
    def groups(self) -> int:
        """Scales of a row of a piece."""
        return PIECE // (self.group or PIECE)

    @property
    def places_at(self) -> int:
        return self.words * _LANES * 4

    @property
    def scales_at(self) -> int:
        return self.places_at + (self.steps // 2 * _LANES * 4 if self.sparse else 0)

    @property
    def zeros_at(self) -> int:
        return self.scales_at + TILE * self.groups * 2

    @property
    def piece_bytes(self) -> int:
        return self.zeros_at + (TILE * self.groups if self.zeros else 0)


FORMS = tuple(
    f"{sparse}int{bits}{group}{zeros}"
    for sparse in ("", "2:4 ")
    for bits, groups in ((4, GROUPS), (8, (None, 128)))
    for group in (f" g{size}" if size else "" for size in groups)
    for zeros in ("", " zeros")
    if (bits == 4 or not zeros) and (bits == 4 or not sparse or group)  # 2:4 with 8 bits and a scale for each row is `nm_decode`'s
)


def form(name: str) -> Form:
    """One of `FORMS`."""
    sparse, bits, group, zeros = re.fullmatch(r"(2:4 )?int(4|8)(?: g(\d+))?( zeros)?", name).groups()  # type: ignore[union-attr]
    return Form(int(bits), bool(sparse), int(group) if group else None, bool(zeros))


def tiles(spec: LinearSpec) -> int:
    return -(-spec.outputs // (TILE // 2)) if spec.gated else -(-spec.rows // TILE)


def pieces(spec: LinearSpec) -> int:
    return -(-spec.depth // PIECE)


def pack(weights: Weights, spec: LinearSpec) -> Tensor:
    """uint8 [tiles, pieces, bytes]. What is missing to whole pieces is zero.

    Raises ValueError for numbers, scales or zero points that the form cannot hold.
    """
    import torch

    kind = form(spec.form)
    numbers, scales, zeros = weights.numbers, weights.scales, weights.zeros
    if scales is None or (zeros is not None) != kind.zeros:
        raise ValueError(f"{spec.form}: scales are needed, and zero points where the form has them, there only")
    low, high = -(1 << kind.bits - 1), (1 << kind.bits - 1) - 1
    for what, values in (("numbers", numbers), ("zero points", zeros)):
        if values is not None and values.numel() and not low <= int(values.min()) <= int(values.max()) <= high:
            raise ValueError(f"{spec.form}: {what} are beyond {low} to {high}")
    kept = scales.to(getattr(torch, spec.dtype))
    if not torch.equal(kept.float(), scales.float()):
        raise ValueError(f"{spec.form}: scales are no {spec.dtype} numbers")
    rows, depth = tiles(spec) * TILE, pieces(spec) * PIECE
    kept = _padded(_tiled(kept, spec), rows, pieces(spec) * kind.groups).view(torch.int16)
    zeros = None if zeros is None else _padded(_tiled(zeros, spec), rows, pieces(spec) * kind.groups)
    numbers = _tiled(numbers, spec)
    if zeros is not None:  # what is padded is worth nothing
        whole = zeros.repeat_interleave(PIECE // kind.groups, 1)
        whole[: len(numbers), : spec.depth] = numbers
    else:
        whole = _padded(numbers, rows, depth)
    parts = []
    if kind.sparse:
        whole, places = _compact(whole, zeros, kind)
        parts.append(_sparse(whole, kind))
        parts.append(_places(places))
    else:
        parts.append(_dense(whole, kind))
    parts.append(_grouped(kept, kind.groups))
    if zeros is not None:
        parts.append(_grouped(zeros + 8, kind.groups))
    return torch.cat([part.contiguous().view(torch.uint8).reshape(tiles(spec), pieces(spec), -1) for part in parts], -1)


def unpack(packed: Tensor, spec: LinearSpec) -> Weights:
    """Inverse of `pack`. A number that 2:4 does not keep is the zero point of its group, or 0."""
    import torch

    kind = form(spec.form)
    words = packed[..., : kind.places_at].contiguous().view(torch.int32)
    places = packed[..., kind.places_at : kind.scales_at].contiguous().view(torch.int32)
    kept = packed[..., kind.scales_at : kind.zeros_at].contiguous().view(getattr(torch, spec.dtype))
    zeros = packed[..., kind.zeros_at :].contiguous().view(torch.int8) - 8
    scales = _untiled(_ungrouped(kept, kind.groups), spec).float()
    groups = -(-spec.depth // (kind.group or spec.depth))
    points = _ungrouped(zeros, kind.groups) if kind.zeros else None
    numbers = _unsparse(words, places, points, kind) if kind.sparse else _undense(words, kind)
    points = None if points is None else _untiled(points, spec)[:, :groups].contiguous()
    return Weights(_untiled(numbers, spec)[:, : spec.depth].contiguous(), scales[:, :groups].contiguous(), points)


def _tiled(values: Tensor, spec: LinearSpec) -> Tensor:
    """Rows in the order of tiles: in a gated layer 8 of the gate, then the 8 of the other factor that belong to them."""
    if not spec.gated:
        return values
    half = tiles(spec) * TILE // 2
    gate, other = (_padded(part, half, values.shape[1]).reshape(-1, 8, values.shape[1]) for part in values.split(spec.outputs))
    import torch

    return torch.stack([gate, other], 1).reshape(2 * half, -1)


def _untiled(values: Tensor, spec: LinearSpec) -> Tensor:
    if not spec.gated:
        return values[: spec.rows]
    import torch

    gate, other = values.reshape(-1, 2, 8, values.shape[1]).unbind(1)
    return torch.cat([part.reshape(-1, values.shape[1])[: spec.outputs] for part in (gate, other)])


def _padded(values: Tensor, rows: int, columns: int) -> Tensor:
    """With zeros; scales of one group for a whole row serve all its pieces."""
    if values.shape[1] == 1 and columns > 1:
        values = values.expand(-1, columns)
    padded = values.new_zeros(rows, columns)
    padded[: values.shape[0], : values.shape[1]] = values
    return padded


# Dense: row = 16 tile + 8 half + g, input = 128 piece + 32 chunk + 8 q + 4 (step of the chunk) + 2 k + e; register half + 2 k, number e.
def _dense(numbers: Tensor, kind: Form) -> Tensor:
    """int8 [rows, depth] → int32 [tiles, pieces, quads, 32, 4]."""
    split = numbers.reshape(-1, 2, 8, numbers.shape[1] // PIECE, 4, 4, 2, 2, 2)  # tile, half, g, piece, chunk, q, step, k, e
    return _words(split.permute(0, 3, 4, 6, 2, 5, 7, 1, 8), kind)  # tile, piece, chunk, step, g, q, k, half, e


def _undense(words: Tensor, kind: Form) -> Tensor:
    tile, piece = words.shape[:2]
    split = _numbers(words, kind).reshape(tile, piece, 4, 2, 8, 4, 2, 2, 2)
    return split.permute(0, 7, 4, 1, 2, 5, 3, 6, 8).reshape(tile * TILE, piece * PIECE)


def _words(numbers: Tensor, kind: Form) -> Tensor:
    """int8 [tiles, pieces, .. steps .., g, q, register // 2, register % 2, e] → int32 [tiles, pieces, quads, 32, 4]."""
    import torch

    tile, piece = numbers.shape[:2]
    flat = numbers.reshape(tile, piece, kind.steps, _LANES, 4, 2).to(torch.int32)
    if kind.bits == 4:
        word = sum((flat[..., register, e] + 8) << 4 * register + 16 * e for register in range(4) for e in range(2))
    else:
        halves = flat.reshape(tile, piece, kind.steps, _LANES, 2, 2, 2) & 0xFF
        word = sum(halves[..., register, e] << 8 * register + 16 * e for register in range(2) for e in range(2))
    word = word.reshape(tile, piece, kind.steps, _LANES, -1).transpose(3, 4)  # .., step, word of the step, lane
    return word.reshape(tile, piece, kind.words // 4, 4, _LANES).transpose(3, 4)


def _numbers(words: Tensor, kind: Form) -> Tensor:
    """Inverse of `_words`: int8 [tiles, pieces, steps, 32, 4, 2]."""
    import torch

    tile, piece = words.shape[:2]
    word = words.reshape(tile, piece, kind.words // 4, _LANES, 4).transpose(3, 4)
    word = word.reshape(tile, piece, kind.steps, -1, _LANES).transpose(3, 4)
    if kind.bits == 4:
        found = [(word[..., 0] >> 4 * register + 16 * e & 15) - 8 for register in range(4) for e in range(2)]
        return torch.stack(found, -1).to(torch.int8).reshape(tile, piece, kind.steps, _LANES, 4, 2)
    found = [word >> 8 * register + 16 * e & 0xFF for register in range(2) for e in range(2)]
    return torch.stack(found, -1).to(torch.uint8).view(torch.int8).reshape(tile, piece, kind.steps, _LANES, 4, 2)


# 2:4: group of an instruction i = 4 u + q; of the inputs 4 (i % 2) + i // 2 = 4 (q % 2) + 2 u + q // 2; register half + 2 u.
def _sparse(kept: Tensor, kind: Form) -> Tensor:
    """int8 [rows, quartets, 2] → int32 [tiles, pieces, quads, 32, 4]."""
    split = kept.reshape(-1, 2, 8, kept.shape[1] // (PIECE // _QUARTET), kind.steps, 2, 2, 2, 2)
    # tile, half, g, piece, step, q%2, u, q//2, e -> tile, piece, step, g, q//2, q%2, u, half, e
    return _words(split.permute(0, 3, 4, 2, 7, 5, 6, 1, 8), kind)


def _unsparse(words: Tensor, places: Tensor, zeros: Tensor | None, kind: Form) -> Tensor:
    import torch

    tile, piece = words.shape[:2]
    split = _numbers(words, kind).reshape(tile, piece, kind.steps, 8, 2, 2, 2, 2, 2)
    kept = split.permute(0, 7, 3, 1, 2, 5, 6, 4, 8).reshape(tile * TILE, -1, 2)
    words = places.reshape(tile, piece, 8, 2, 2, kind.steps // 2)  # g, parity of the step, u, pair of steps
    nibbles = torch.stack([words >> 4 * n & 15 for n in range(8)], -1).reshape(
        tile, piece, 8, 2, 2, kind.steps // 2, 2, 2, 2
    )  # half, q//2, q%2
    nibbles = nibbles.permute(0, 6, 2, 1, 5, 3, 8, 4, 7).reshape(tile * TILE, -1)  # tile, half, g, piece, pair, parity, q%2, u, q//2
    whole = torch.zeros(*nibbles.shape, _QUARTET, dtype=torch.int8, device=words.device)
    if zeros is not None:
        whole += zeros.repeat_interleave(PIECE // kind.groups // _QUARTET, 1)[..., None]
    whole.scatter_(-1, torch.stack([nibbles & 3, nibbles >> 2], -1).long(), kept)
    return whole.reshape(tile * TILE, piece * PIECE)


def _places(places: Tensor) -> Tensor:
    """int8 [rows, quartets, 2] → int32 [tiles, pieces, 32, pairs of steps]: lane 4g + 2 · (step of the pair) + u."""
    import torch

    steps = PIECE // 32
    nibbles = (places[..., 0] | places[..., 1] << 2).to(torch.int32)
    split = nibbles.reshape(-1, 2, 8, nibbles.shape[1] // (PIECE // _QUARTET), steps // 2, 2, 2, 2, 2)  # .., pair, parity, q%2, u, q//2
    split = split.permute(0, 3, 2, 5, 7, 4, 1, 8, 6)  # tile, piece, g, parity, u, pair, half, q//2, q%2
    flat = split.reshape(*split.shape[:2], _LANES, steps // 2, 8)
    return sum(flat[..., n] << 4 * n for n in range(8))  # type: ignore[return-value]


def _compact(numbers: Tensor, zeros: Tensor | None, kind: Form) -> tuple[Tensor, Tensor]:
    """[rows, inputs] → the two numbers kept of each four, and their places, ascending and distinct, whatever is zero."""
    import torch

    quartets = numbers.reshape(len(numbers), -1, _QUARTET)
    worth = quartets if zeros is None else quartets - zeros.repeat_interleave(PIECE // kind.groups // _QUARTET, 1)[..., None]
    none = worth == 0
    if bool((none.sum(-1) < 2).any()):
        raise ValueError("a group of four inputs has more than two weights that are not zero")
    places = torch.argsort(none.to(torch.int8), dim=-1, stable=True)[..., :2].sort(-1).values
    return torch.gather(quartets, -1, places), places.to(torch.int8)


def _grouped(values: Tensor, groups: int) -> Tensor:
    """[rows, groups of the depth] → [tiles, pieces, 8, groups, 2]: those of rows g and g + 8 side by side."""
    return values.reshape(-1, 2, 8, values.shape[1] // groups, groups).permute(0, 3, 2, 4, 1)


def _ungrouped(values: Tensor, groups: int) -> Tensor:
    tile, piece = values.shape[:2]
    return values.reshape(tile, piece, 8, groups, 2).permute(0, 4, 2, 1, 3).reshape(tile * TILE, piece * groups)
