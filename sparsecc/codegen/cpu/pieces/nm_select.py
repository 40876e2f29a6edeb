"""N:M matrices with outputs in the vector lanes: which of four neighbouring inputs (a group) each kept weight is multiplied with.

Every output keeps the same number of weights of a group, at places of its own: two bits each. Sixteen lie in a 32-bit word of the output's
lane, and an instruction that selects by index within 128 bits fetches the inputs out of a register that holds a group again and again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.spec import ceil_div
from sparsecc.codegen.tvm_api import T, tirx
from sparsecc.codegen.zeros import ZeroProfile

Expr = Any

GROUP = 4  # inputs: as many as two bits can tell apart, and as 128 bits hold of float32
INDEX_BYTES = 0.25  # two bits for each stored weight
PER_WORD = 16  # places in a word


def kept(matrix: np.ndarray) -> int:
    """The most weights that any output keeps of a group."""
    return max(int((_groups(matrix) != 0).sum(axis=2).max(initial=0)), 1)


def compact(matrix: np.ndarray, keep: int) -> tuple[np.ndarray, np.ndarray]:
    """matrix: [rows, cols], at most `keep` nonzeros in a group. Returns values [rows, groups · keep] and their places, uint8 alike."""
    groups = _groups(matrix)
    places = np.sort(np.argsort(groups == 0, axis=2, kind="stable")[:, :, :keep], axis=2)
    values = np.take_along_axis(groups, places, axis=2)
    return values.reshape(len(matrix), -1), places.astype(np.uint8).reshape(len(matrix), -1)


def _groups(matrix: np.ndarray) -> np.ndarray:
    rows, cols = matrix.shape
    padded = np.zeros((rows, ceil_div(cols, GROUP) * GROUP), matrix.dtype)
    padded[:, :cols] = matrix
    return padded.reshape(rows, -1, GROUP)


def words(places: np.ndarray, dtype: str) -> np.ndarray:
    """places: uint8 [rows, slots], padded with zeros to whole words. Returns int32 [rows, words].

    float32: the k-th place from bit 2k, so that a shift by that brings it down. int8: four values are multiplied at once, and a shift by 2k
    brings down the four places of the k-th such vector, one in each byte.
    """
    rows, slots = places.shape
    padded = np.zeros((rows, ceil_div(slots, PER_WORD) * PER_WORD), np.uint32)
    padded[:, :slots] = places
    slot = np.arange(PER_WORD)
    bits = 2 * slot if dtype == "float32" else 8 * (slot % 4) + 2 * (slot // 4)
    return np.bitwise_or.reduce(padded.reshape(rows, -1, PER_WORD) << bits.astype(np.uint32), axis=2).view(np.int32)


def floats(group: Expr, word: Expr, slot: Expr, target: Target) -> Expr:
    """The input of each lane's `slot`-th weight.  group: four float32 again and again over the lanes."""
    lanes = target.lanes
    return _FLOATS[target.select.get("float32", "")](group, _down(word, 2 * slot, lanes), lanes)


def _down(word: Expr, bits: Expr, lanes: int) -> Expr:
    return T.shift_right(word, T.Broadcast(T.Cast("int32", bits), lanes))


_VPERMILPS = {
    512: "llvm.x86.avx512.vpermilvar.ps.512",
    256: "llvm.x86.avx.vpermilvar.ps.256",
    128: "llvm.x86.avx.vpermilvar.ps",
}


def _vpermilps(group: Expr, places: Expr, lanes: int) -> Expr:
    """Only the lowest two bits of each lane count."""
    return T.call_llvm_pure_intrin(f"float32x{lanes}", _VPERMILPS[32 * lanes], group, places)


def _by_bits(group: Expr, places: Expr, lanes: int) -> Expr:
    """By comparison with each of the places, for CPUs that have nothing better."""
    place = T.bitwise_and(places, T.Broadcast(T.int32(GROUP - 1), lanes))
    found = T.Shuffle([group], [0] * lanes)
    for other in range(1, GROUP):
        found = T.Select(tirx.EQ(place, T.Broadcast(T.int32(other), lanes)), T.Shuffle([group], [other] * lanes), found)
    return found


_FLOATS = {"vpermilps": _vpermilps, "": _by_bits}


def fours(window: Expr, word: Expr, vector: int, keep: int, target: Target) -> Expr:
    """The inputs of each lane's `vector`-th four weights, one in each byte.

    window: four int32 again and again over the lanes, each a group of int8. vector: counted from a word's first; a multiple of `keep`
    vectors before it begins a window.
    """
    lanes = target.lanes
    places = T.bitwise_and(_down(word, 2 * (vector % 4), lanes), T.Broadcast(T.int32(0x03030303), lanes))
    groups = [(4 * (vector % keep) + byte) // keep for byte in range(4)]
    return _BYTES[target.select.get("int8", "")](window, places, groups, lanes)


def _pshufb(window: Expr, places: Expr, groups: list[int], lanes: int) -> Expr:
    return _byte_intrinsic(_PSHUFB[32 * lanes], window, places, groups, lanes)


def _tbl(window: Expr, places: Expr, groups: list[int], lanes: int) -> Expr:
    return _byte_intrinsic("llvm.aarch64.neon.tbl1.v16i8", window, places, groups, lanes)


_PSHUFB = {512: "llvm.x86.avx512.pshuf.b.512", 256: "llvm.x86.avx2.pshuf.b", 128: "llvm.x86.ssse3.pshuf.b.128"}


def _byte_intrinsic(name: str, window: Expr, places: Expr, groups: list[int], lanes: int) -> Expr:
    """Both instructions take bytes of 128 bits by the numbers in another register."""
    narrow = f"int8x{4 * lanes}"
    first = int.from_bytes(bytes(GROUP * group for group in groups), "little")
    control = T.bitwise_or(places, T.Broadcast(T.int32(first), lanes))
    selected = T.call_llvm_pure_intrin(narrow, name, tirx.reinterpret(narrow, window), tirx.reinterpret(narrow, control))
    return tirx.reinterpret(f"int32x{lanes}", selected)


def _by_shifts(window: Expr, places: Expr, groups: list[int], lanes: int) -> Expr:
    """Byte by byte, for CPUs that have nothing better."""
    found = T.Broadcast(T.int32(0), lanes)
    low = T.Broadcast(T.int32(0xFF), lanes)
    for byte, group in enumerate(groups):
        place = T.bitwise_and(_down(places, 8 * byte, lanes), low)
        bits = T.shift_left(place, T.Broadcast(T.int32(3), lanes))
        value = T.bitwise_and(T.shift_right(T.Shuffle([window], [group] * lanes), bits), low)
        found = T.bitwise_or(found, T.shift_left(value, T.Broadcast(T.int32(8 * byte), lanes)))
    return found


_BYTES = {"pshufb": _pshufb, "tbl": _tbl, "": _by_shifts}


def of_four(matrix: np.ndarray, *_: object) -> ZeroProfile | None:
    """Of a matrix as N:M kernels store it, None where some group of four has no zero."""
    count = kept(matrix)
    return ZeroProfile(1, count / GROUP, 0.0) if count < GROUP else None


def kept_of_four(zeros: ZeroProfile) -> tuple[int]:
    return (round(zeros.density * GROUP),)
