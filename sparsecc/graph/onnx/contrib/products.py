"""Products of matrices with what was fused into them, and with weights in 4 bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsecc.graph.onnx.contrib.elementwise import activated, tanh_gelu
from sparsecc.graph.onnx.contrib.parts import CannotError, Parts


def fused_matmul(parts: Parts) -> Sequence[str]:
    """alpha · A·B, each perhaps with its last two axes exchanged."""
    return [_product(parts)]


def fused_matmul_activation(parts: Parts) -> Sequence[str]:
    numbers = [parts.get(f"activation_{name}", None) for name in ("alpha", "beta", "gamma")]
    return [activated(parts, _product(parts), parts.get("activation", ""), numbers)]


def gemm_fast_gelu(parts: Parts) -> Sequence[str]:
    x, w, bias = parts.inputs(3)
    return [tanh_gelu(parts, parts.sum(parts.op("MatMul", x, w, named=True), bias))]


def fused_gemm(parts: Parts) -> Sequence[str]:
    attributes = {name: parts.attributes[name] for name in ("alpha", "beta", "transA", "transB") if name in parts.attributes}
    numbers = [parts.get(f"activation_{name}", None) for name in ("alpha", "beta", "gamma")]
    return [activated(parts, parts.op("Gemm", *parts.node.input, named=True, **attributes), parts.get("activation", ""), numbers)]


def fused_conv(parts: Parts) -> Sequence[str]:
    """activation(conv(x, w, b) + z)"""
    x, w, b, z = parts.inputs(4)
    names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    attributes = {name: parts.attributes[name] for name in names if name in parts.attributes}
    y = parts.sum(parts.op("Conv", x, w, b, named=True, **attributes), z)
    return [activated(parts, y, parts.get("activation", ""), list(parts.get("activation_params", [])))]


def matmul_n_bits(parts: Parts) -> Sequence[str]:
    """x · Wᵀ + b, W [N, K] in blocks of a row with a scale and perhaps a zero point each, the lowest bits of a byte first."""
    x, packed, scales, zeros, order, bias = parts.inputs(6)
    if order is not None:
        raise CannotError("its groups are in an order of their own (g_idx)")
    bits, block, rows, cols = parts.get("bits", 4), parts.attributes["block_size"], parts.attributes["N"], parts.attributes["K"]
    if bits not in (2, 4, 8):
        raise CannotError(f"its numbers have {bits} bits")
    blocks = -(-cols // block)
    numbers = _unpacked(parts.array(packed, "weight"), bits, rows * blocks).reshape(rows, blocks, -1)[:, :, :block].astype(np.float32)
    factors = parts.array(scales, "scales").reshape(rows, blocks, 1).astype(np.float32)
    weight = (numbers - _zero_points(parts, zeros, bits, rows, blocks)) * factors
    matrix = np.ascontiguousarray(weight.reshape(rows, blocks * block)[:, :cols].T, dtype=parts.numpy_kind)
    return [parts.sum(parts.op("MatMul", x, parts.const(matrix), named=True), bias)]


def _zero_points(parts: Parts, zeros: str | None, bits: int, rows: int, blocks: int) -> np.ndarray:
    """[rows, blocks, 1]; packed as the numbers are, each row by itself, or floats."""
    if zeros is None:
        return np.full((rows, blocks, 1), 2.0 ** (bits - 1), np.float32)
    found = parts.array(zeros, "zero points")
    if found.dtype == np.uint8:
        found = _unpacked(found, bits, rows).reshape(rows, -1)[:, :blocks]
    return found.reshape(rows, blocks, 1).astype(np.float32)


def _unpacked(packed: np.ndarray, bits: int, rows: int) -> np.ndarray:
    """[rows, numbers] of bytes that hold several, the lowest bits first."""
    data = packed.reshape(rows, -1)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((data[..., None] >> shifts) & (2**bits - 1)).reshape(rows, -1)


def _product(parts: Parts) -> str:
    a, b = parts.inputs(2)
    if parts.get("transBatchA", 0) or parts.get("transBatchB", 0):
        raise CannotError("it exchanges axes of the batch")
    a = parts.turned(a) if parts.get("transA", 0) and len(parts.shape(a)) > 1 else a
    b = parts.turned(b) if parts.get("transB", 0) and len(parts.shape(b)) > 1 else b
    y = parts.op("MatMul", a, b, named=True)
    alpha = parts.get("alpha", 1.0)
    return y if alpha == 1 else parts.op("Mul", y, parts.number(alpha))
