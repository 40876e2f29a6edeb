"""Instructions that TVM's table of PTX lacks: `wgmma` with 2:4 weights.

    D [64, n] += A [64, 32] · B [n, 32]ᵀ

Of A these are the 16 numbers of each row that are kept, and a word of each thread with the places where they stood. They are in shared
memory (a descriptor) or in registers (four a thread, as of a dense product of 16 inputs). After B come the places, the number (0 or 1) of
the pair of threads in each four that holds them, whether to add, signs of A and B, and which of those in shared memory is transposed.

Source: PTX ISA 9.0, "Asynchronous warpgroup level multiply-and-accumulate operation using wgmma.mma_async.sp instruction".
"""

from __future__ import annotations

from functools import cache
from typing import Any

from sparsecc.codegen.cuda.script import T

_SIGN, _TRANSPOSED = ("-1", "1"), ("0", "1")


@cache
def register() -> None:
    """Makes `T.ptx["wgmma.mma_async.sp.sync.aligned.m64n*k32.f32.{bf16,f16}.*"]` known, unless this TVM knows it."""
    from sparsecc.codegen.tvm_api import ptx_engine

    try:
        _ = T.ptx["wgmma.mma_async.sp"]
    except KeyError:
        rows = {row.name: row for dtype in ("bf16", "f16") for row in (_sparse(dtype, shared=True), _sparse(dtype, shared=False))}
        ptx_engine.register_table(rows)
        for row in rows.values():
            T.ptx._by_family.setdefault(row.family, []).append((row, (None,) * len(row.slots)))


def _sparse(dtype: str, shared: bool) -> Any:
    from sparsecc.codegen.tvm_api import ptx_table

    slot, operand = ptx_table.ModifierSlot, ptx_table.OperandSlot
    words = ("mma_async", "sp", "sync", "aligned")
    columns = tuple(f"m64n{columns}k32" for columns in range(8, 257, 8))
    return ptx_table.InstructionEntry(
        name=f"wgmma_sp_{dtype}_{'ss' if shared else 'rs'}",
        mnemonic="wgmma",
        slots=(
            *(slot(word, (word,)) for word in words),
            slot("shape", columns),
            slot("dtype", ("f32",)),
            slot("atype", (dtype,)),
            slot("btype", (dtype,)),
        ),
        cert_arch="sm_90a",
        operands=(
            operand("d", rw="rw", dtype="f32", lanes=lambda chosen: int(chosen["shape"][4:-3]) // 2),
            operand("a_desc", dtype="u64") if shared else operand("a", dtype="u32", lanes=4),
            operand("b_desc", dtype="u64"),
            operand("places", dtype="u32"),
            operand("selector", kind="imm", choices=("0", "1")),
            operand("scale_d", dtype="pred"),
            operand("scale_a", kind="imm", choices=_SIGN),
            operand("scale_b", kind="imm", choices=_SIGN),
            *((operand("trans_a", kind="imm", choices=_TRANSPOSED),) if shared else ()),
            operand("trans_b", kind="imm", choices=_TRANSPOSED),
        ),
    )
