"""8-bit numbers → pairs of 16-bit ones, in registers, exactly, in about two instructions a number; and 16-bit ones → float32.

A word's bytes 0 and 2 become one pair, its bytes 1 and 3 the next, so that masks and shifts of the whole word do it.
"""

from __future__ import annotations

from sparsecc.codegen.cuda.script import T


def half(word, odd, dtype: str):
    """float32 of the lower or the upper 16 bits of a word."""
    if dtype == "bfloat16":
        return T.reinterpret("float32", T.Select(odd == 1, word & T.uint32(0xFFFF0000), word << T.uint32(16)))
    return T.cast(T.reinterpret("float16", T.cast(T.Select(odd == 1, word >> T.uint32(16), word), "uint16")), "float32")


def widen(kind: str, dtype: str):
    """kind: int8 or e4m3 (finite ones).  dtype: bfloat16 or float16.  Returns an inline (pairs, place, word) that writes two pairs.

    e4m3: sign, exponent and mantissa are put in the wide number's places; what its exponent is too small by, a product makes up for,
    subnormal numbers included.
    int8 in bfloat16: the low 7 bits are the mantissa of 128 + v, the sign bit that of 128 or 256, which is subtracted.
    int8 in float16: v + 128 is the mantissa of 1024 + 128 + v.
    """
    return {("e4m3", "bfloat16"): _e4m3_bfloat16, ("e4m3", "float16"): _e4m3_float16, ("int8", "bfloat16"): _int8_bfloat16,
            ("int8", "float16"): _int8_float16}[kind, dtype]()  # fmt: skip


def _e4m3_bfloat16():
    @T.inline
    def two(pairs, place, word):
        pairs[place] = ((word << T.uint32(8)) & T.uint32(0x80008000)) | ((word << T.uint32(4)) & T.uint32(0x07F007F0))
        pairs[place + 1] = (word & T.uint32(0x80008000)) | ((word >> T.uint32(4)) & T.uint32(0x07F007F0))
        for i in T.unroll(2):  # 2^120
            T.ptx["fma.rn.bf16x2"](pairs[place + i], pairs[place + i], T.uint32(0x7B807B80), T.uint32(0x80008000))

    return two


def _e4m3_float16():
    @T.inline
    def two(pairs, place, word):
        pairs[place] = ((word << T.uint32(8)) & T.uint32(0x80008000)) | ((word << T.uint32(7)) & T.uint32(0x3F803F80))
        pairs[place + 1] = (word & T.uint32(0x80008000)) | ((word >> T.uint32(1)) & T.uint32(0x3F803F80))
        for i in T.unroll(2):  # 2^8
            T.ptx["fma.rn.f16x2"](pairs[place + i], pairs[place + i], T.uint32(0x5C005C00), T.uint32(0x80008000))

    return two


def _int8_bfloat16():
    @T.inline
    def two(pairs, place, word):
        sign = T.alloc_local([2], "uint32")
        for i in T.unroll(2):
            pairs[place + i] = ((word >> T.cast(8 * i, "uint32")) & T.uint32(0x007F007F)) | T.uint32(0x43004300)
            sign[i] = ((word >> T.cast(8 * i, "uint32")) & T.uint32(0x00800080)) | T.uint32(0x43004300)
            T.ptx["fma.rn.bf16x2"](pairs[place + i], sign[i], T.uint32(0xBF80BF80), pairs[place + i])

    return two


def _int8_float16():
    @T.inline
    def two(pairs, place, word):
        pairs[place] = (word & T.uint32(0x00FF00FF)) ^ T.uint32(0x64806480)
        pairs[place + 1] = ((word >> T.uint32(8)) & T.uint32(0x00FF00FF)) ^ T.uint32(0x64806480)
        for i in T.unroll(2):  # minus 1152
            T.ptx["fma.rn.f16x2"](pairs[place + i], pairs[place + i], T.uint32(0x3C003C00), T.uint32(0xE480E480))

    return two
