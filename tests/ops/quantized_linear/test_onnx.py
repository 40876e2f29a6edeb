"""The function's name and body; what it computes is a law of precisions."""

from __future__ import annotations

from sparsecc import precisions
from sparsecc.ops import layer_functions
from tests.ops.quantized_linear.schemes import COLS, ROWS

FUNCTIONS = layer_functions("QuantizedLinear")


def test_names_say_precision_format_and_bias() -> None:
    scheme = precisions.scheme_from_key
    assert FUNCTIONS.op_type(scheme("int8:calibrated:7"), ROWS, COLS, True) == "QuantizedLinear_int8_calibrated_7"
    assert FUNCTIONS.op_type(scheme("bfloat16/block:1x4"), ROWS, COLS, False) == "QuantizedLinear_bfloat16_block_1x4_nobias"


def test_values_are_decoded_in_a_type_that_runtimes_move() -> None:
    function = FUNCTIONS.function(precisions.scheme_from_key("bfloat16/csr"), ROWS, COLS, True, 18)
    kinds = [node.op_type for node in function]
    assert kinds[0] == "CastLike" and kinds[-3:] == ["CastLike", "MatMul", "Add"]
