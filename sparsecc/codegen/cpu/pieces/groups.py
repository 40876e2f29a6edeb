"""Narrow numbers in groups: neighbouring inputs of one token share a 32-bit lane, four int8 or two bfloat16, and are multiplied together.

Activations lie as int32 [tiles, groups, tile], so that one vector register holds one group of many tokens. int8 activations are stored
with `offset` added, as bytes without sign where the CPU's instruction wants that. Zero is another number in each token, its zero point,
and kernels begin their sums with what takes it back: Σ (x - zero)·w = Σ x·w - zero·Σ w, where Σ w depends on the weights alone.

Sums are int32 and wrap around on their way. What they end in is right up to 2^31 / (2·127 · 127) = 66,572 inputs, whatever the values are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.numbers import SIZE, bfloat16
from sparsecc.codegen.tvm_api import T, tirx
from sparsecc.precisions.int8 import HALF_SPAN

Expr = Any

SUM = {"float32": "float32", "bfloat16": "float32", "int8": "int32"}  # what products are added up in


def offset(dtype: str, target: Target) -> int:
    """What is added to activations when they are stored."""
    return 0 if dtype != "int8" or target.dot.get(dtype) == "sdot" else 128


def dot(total: Expr, x: Expr, w: Expr, dtype: str, target: Target) -> Expr:
    """total + Σ x·w over each lane's group.

    total: a vector of SUM[dtype].  x: int32 lanes, groups of activations.  w: int32, one group of weights for all lanes.
    """
    return dot_of_lanes(total, x, T.Broadcast(w, target.lanes), dtype, target)


def dot_of_lanes(total: Expr, x: Expr, w: Expr, dtype: str, target: Target) -> Expr:
    """The same with weights of its own for each lane."""
    return _DOTS[dtype, target.dot.get(dtype, "")](total, x, w, target.lanes)


def _intrinsic(name: str, dtype: str, total: Expr, x: Expr, w: Expr, lanes: int) -> Expr:
    narrow = f"{dtype}x{SIZE[dtype] * lanes}"
    return T.call_llvm_pure_intrin(f"{SUM[dtype]}x{lanes}", name, total, tirx.reinterpret(narrow, x), tirx.reinterpret(narrow, w))


def _vpdpbusd(total: Expr, x: Expr, w: Expr, lanes: int) -> Expr:
    return _intrinsic(f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", "int8", total, x, w, lanes)


def _sdot(total: Expr, x: Expr, w: Expr, lanes: int) -> Expr:
    return _intrinsic("llvm.aarch64.neon.sdot", "int8", total, x, w, lanes)


_PMADDWD = {512: "llvm.x86.avx512.pmaddw.d.512", 256: "llvm.x86.avx2.pmadd.wd", 128: "llvm.x86.sse2.pmadd.wd"}


def _pmaddwd(total: Expr, x: Expr, w: Expr, lanes: int) -> Expr:
    """Exact, unlike vpmaddubsw, whose 16-bit sums saturate: bytes 0 and 2, then 1 and 3, widened to 16 bits and multiplied."""
    for shift in (0, 8):
        unsigned = T.bitwise_and(_shifted(x, shift, lanes), T.Broadcast(T.int32(0x00FF00FF), lanes))
        signed = _int16(T.shift_left(w, T.Broadcast(T.int32(8), lanes)) if shift == 0 else w, lanes)
        factors = (_int16(unsigned, lanes), T.shift_right(signed, T.Broadcast(T.int16(8), 2 * lanes)))
        total = total + T.call_llvm_pure_intrin(f"int32x{lanes}", _PMADDWD[32 * lanes], *factors)
    return total


def _int16(x: Expr, lanes: int) -> Expr:
    return tirx.reinterpret(f"int16x{2 * lanes}", x)


def _shifted(x: Expr, bits: int, lanes: int) -> Expr:
    return T.shift_right(x, T.Broadcast(T.int32(bits), lanes)) if bits else x


def _bytes(total: Expr, x: Expr, w: Expr, lanes: int) -> Expr:
    """Byte by byte, for CPUs that have nothing better."""
    for shift in (0, 8, 16, 24):
        unsigned = T.bitwise_and(_shifted(x, shift, lanes), T.Broadcast(T.int32(0xFF), lanes))
        up = T.Broadcast(T.int32(24 - shift), lanes)
        total = total + unsigned * T.shift_right(T.shift_left(w, up), T.Broadcast(T.int32(24), lanes))
    return total


def _bfloat16_dot(total: Expr, x: Expr, w: Expr, lanes: int) -> Expr:
    """Sums are float32; magnitudes below 1.2e-38 count as zero."""
    return tirx.call_pure_extern(f"float32x{lanes}", "sparsecc_bfloat16_dot", total, x, w)


def _halves(total: Expr, x: Expr, w: Expr, lanes: int) -> Expr:
    """A bfloat16 is the upper half of the float32 with the same value. On Zen 4 at a quarter of the rate of float32."""
    sixteen, upper = T.Broadcast(T.int32(16), lanes), T.Broadcast(T.int32(-65536), lanes)
    for half in (lambda bits: T.shift_left(bits, sixteen), lambda bits: T.bitwise_and(bits, upper)):
        total = total + tirx.reinterpret(f"float32x{lanes}", half(x)) * tirx.reinterpret(f"float32x{lanes}", half(w))
    return total


def _plain(total: Expr, x: Expr, w: Expr, lanes: int) -> Expr:
    return total + x * w


_DOTS = {
    ("float32", ""): _plain,
    ("int8", "vpdpbusd"): _vpdpbusd,
    ("int8", "sdot"): _sdot,
    ("int8", "pmaddwd"): _pmaddwd,
    ("int8", ""): _bytes,
    ("bfloat16", "vdpbf16ps"): _bfloat16_dot,
    ("bfloat16", "bfdot"): _bfloat16_dot,
    ("bfloat16", ""): _halves,
}


_LLVM = """
define <{lanes} x float> @sparsecc_bfloat16_dot(<{lanes} x float> %total, <{lanes} x i32> %x, <{lanes} x i32> %w) {{
  %a = bitcast <{lanes} x i32> %x to <{pairs} x bfloat>
  %b = bitcast <{lanes} x i32> %w to <{pairs} x bfloat>
  %sum = call <{lanes} x float> @{intrinsic}(<{lanes} x float> %total, <{pairs} x bfloat> %a, <{pairs} x bfloat> %b)
  ret <{lanes} x float> %sum
}}
declare <{lanes} x float> @{intrinsic}(<{lanes} x float>, <{pairs} x bfloat>, <{pairs} x bfloat>)
"""
_BFLOAT16_INTRINSICS = {
    "vdpbf16ps": "llvm.x86.avx512bf16.dpbf16ps.{bits}",
    "bfdot": "llvm.aarch64.neon.bfdot.v4f32.v8bf16",
}


def linked(func: Any, dtype: str, target: Target) -> Any:
    """A PrimFunc whose kernel calls `dot`, with the LLVM code that such calls need; LLVM inlines it.

    TVM 0.27 widens bfloat16 operands to float32, intrinsics' too, and its LLVM generator has no such type: only code written for LLVM can
    name vdpbf16ps and bfdot.
    """
    intrinsic = _BFLOAT16_INTRINSICS.get(target.dot.get(dtype, ""))
    if intrinsic is None:
        return func
    name = intrinsic.format(bits=target.vector_bits)
    code = _LLVM.format(intrinsic=name, lanes=target.lanes, pairs=2 * target.lanes)
    return func.with_body(tirx.AttrStmt(tirx.const(0, "int32"), "pragma_import_llvm", code, func.body))


def result(total: Expr, dtype: str, scale: Callable[[], Expr], bias: Expr) -> Expr:
    """A finished sum as float32. scale(): row's times token's, where the format has scales; elsewhere sums begin with the bias."""
    return T.Cast("float32", total) * scale() + bias if dtype == "int8" else total


def grouped(matrix: np.ndarray, taps: int, dtype: str) -> np.ndarray:
    """Weights [rows, taps · channels] as int32 [rows, taps · groups of channels], each tap padded with zeros to whole groups.

    matrix: int8 for int8; for bfloat16 float32 whose values are bfloat16 already.
    """
    size, rows = SIZE[dtype], len(matrix)
    channels = matrix.shape[1] // taps
    padded = np.zeros((rows, taps, -(-channels // size) * size), matrix.dtype)
    padded[:, :, :channels] = matrix.reshape(rows, taps, channels)
    # -0.0 + 0.0 is 0.0: a mask leaves -0.0 of negative weights, whose bits would count as a weight where zeros are dropped.
    narrow = padded if dtype == "int8" else ((padded + np.float32(0)).view(np.uint32) >> 16).astype(np.uint16)
    return np.ascontiguousarray(narrow).reshape(rows, -1).view(np.int32)


def starts(matrix: np.ndarray, bias: np.ndarray, dtype: str) -> np.ndarray:
    """What each row's sums begin with, see `begin`: the negative sum of its weights (int32), or the bias."""
    return bias if dtype != "int8" else -matrix.sum(axis=1, dtype=np.int32)


def begin(start: Expr, zero: Callable[[], Expr], dtype: str) -> Expr:
    """A sum without its products.  start: the row's.  zero(): the token's zero point, where the format has those."""
    return start * zero() if dtype == "int8" else start


def group_array(x: np.ndarray, dtype: str, target: Target, scale: float | None = None) -> list[np.ndarray]:
    """What `group_tokens` makes of x, float32 [tiles, features, tile]: groups, for int8 then scales and zero points."""
    size = SIZE[dtype]
    padded = np.zeros((len(x), -(-x.shape[1] // size) * size, x.shape[2]), np.float32)
    padded[:, : x.shape[1]] = x
    if dtype == "int8":
        scales, zeros = _of_tokens(x, scale)
        levels = np.rint(padded / np.where(scales > 0, scales, 1)[:, None] + zeros[:, None])
        narrow = (levels.astype(np.int32) + offset(dtype, target)).astype(np.uint8)
        found = [scales.astype(np.float32), zeros.astype(np.int32) + offset(dtype, target)]
    else:
        narrow, found = (bfloat16(padded).view(np.uint32) >> 16).astype(np.uint16), []
    by_token = narrow.reshape(len(x), -1, size, x.shape[2]).transpose(0, 1, 3, 2)
    return [np.ascontiguousarray(by_token).view(np.int32)[..., 0], *found]


def _of_tokens(x: np.ndarray, scale: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points [tiles, tile] as `Int8` has them."""
    low, high = np.minimum(x.min(axis=1), 0), np.maximum(x.max(axis=1), 0)
    if scale is not None:
        return np.full(low.shape, scale), np.zeros(low.shape)
    scales = (high / 2 - low / 2) / HALF_SPAN
    return scales, np.rint(-low / np.where(scales > 0, scales, 1)) - HALF_SPAN
