"""Products of a warpgroup, `wgmma`: D [64, n] += A [64, 16] · B [n, 16]ᵀ, with A and B in shared memory and D in its threads' registers.

A and B lie as copies of boxes with the 128-byte swizzle bring them: rows of 64 numbers of 16 bits. A tile of more rows is read from where
its rows begin, and steps of 16 inputs within a row are 32 bytes apart, as if there were no swizzle.

Of int8 numbers a row is as wide as the swizzle, 64 or 128 bytes, an instruction takes 32 inputs, and D is int32.

Source: PTX ISA 9.0, "Asynchronous warpgroup level matrix instructions".
"""

from __future__ import annotations

from typing import Any

from sparsecc.codegen.cuda.script import T

INPUTS = 64  # of a row of a tile, 128 bytes
STEP = 16  # inputs of an instruction
_LAYOUT = (1 << 62) | (64 << 32) | (1 << 16)  # swizzle of 128 bytes, groups of eight rows 1024 bytes apart
_NAMES = {"bfloat16": "bf16", "float16": "f16"}


def descriptor(place: Any, offset: Any = 0) -> Any:
    """Of a tile whose first row begins `offset` bytes (a multiple of 1024) after `place`, both in shared memory."""
    address = T.cuda.cvta_generic_to_shared(place)
    return T.uint64(_LAYOUT) + T.cast((address + T.cast(offset, "uint32")) // T.uint32(16), "uint64")


def int8_descriptor(place: Any, width: int, offset: Any = 0) -> Any:
    """Of a tile of int8, whose rows and swizzle are `width` bytes, 64 or 128; `offset` a multiple of eight rows."""
    address = T.cuda.cvta_generic_to_shared(place)
    swizzle = T.uint64(1 if width == 128 else 2) << T.uint64(62)
    return swizzle + T.uint64((width * 8 // 16 << 32) | (1 << 16)) + T.cast((address + T.cast(offset, "uint32")) // T.uint32(16), "uint64")


def moved(tile: Any, offset: Any) -> Any:
    """The descriptor of what lies `offset` bytes after another."""
    return tile + T.cast(offset // 16, "uint64")


def swizzled(row: Any, chunk: Any, width: int = 128) -> Any:
    """Where the 16 bytes number `chunk` of a row of a tile lie, in bytes after the tile. width: of a row and of the swizzle, 64 or 128."""
    return row * width + (chunk ^ (row // (128 // width) % (width // 16))) * 16


def instruction(columns: int, dtype: str) -> str:
    name = _NAMES[dtype]
    return f"wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{name}.{name}"


def begin() -> Any:
    """Before the first product that reads registers or shared memory which the threads have written."""
    return T.ptx.wgmma.fence.sync.aligned()


def end() -> Any:
    """After the last product of a group."""
    return T.ptx.wgmma.commit_group.sync.aligned()


def wait(pending: int) -> Any:
    """Until all groups but the last `pending` are done."""
    return T.ptx.wgmma.wait_group.sync.aligned(pending)


def multiply(chain: str, sums: Any, columns: int, a: Any, b: Any, add: Any) -> Any:
    """One instruction, `chain`. sums: the thread's columns / 2 registers.  add: to the sums, which are replaced otherwise."""
    return T.ptx[chain](*[sums[i] for i in range(columns // 2)], a, b, T.ptx.pred(add), 1, 1, 0, 0)


def multiply_int8(sums: Any, columns: int, a: Any, b: Any) -> Any:
    """One instruction, which adds to the sums: the thread's columns / 2 registers, as uint32."""
    chain = f"wgmma.mma_async.sync.aligned.m64n{columns}k32.s32.s8.s8"
    return T.ptx[chain](*[sums[i] for i in range(columns // 2)], a, b, T.ptx.pred(True))


def upright(place: Any, rows: int) -> Any:
    """The descriptor of a right factor whose rows are the depth: [depth, n], in boxes of 64 columns and `rows` rows each."""
    address = T.cuda.cvta_generic_to_shared(place)
    return T.uint64((1 << 62) | (64 << 32) | (rows * INPUTS * 2 // 16 << 16)) + T.cast(address // T.uint32(16), "uint64")


def multiply_upright(chain: str, sums: Any, columns: int, a: Any, first: int, b: Any, add: Any) -> Any:
    """One instruction with a left factor in four registers from a[first], and a right factor as `upright` says."""
    return T.ptx[chain](*[sums[i] for i in range(columns // 2)], *[a[first + i] for i in range(4)], b, T.ptx.pred(add), 1, 1, 1)


def sparse_instruction(columns: int, dtype: str) -> str:
    name = _NAMES[dtype]
    return f"wgmma.mma_async.sp.sync.aligned.m64n{columns}k32.f32.{name}.{name}"


def multiply_sparse(chain: str, sums: Any, columns: int, a: Any, first: int, b: Any, places: Any, selector: int, add: Any) -> Any:
    """One instruction with a 2:4 left factor in four registers from a[first]. places: a word, of the pair of lanes `selector` in four."""
    return T.ptx[chain](
        *[sums[i] for i in range(columns // 2)], *[a[first + i] for i in range(4)], b, places, selector, T.ptx.pred(add), 1, 1, 0
    )
