from __future__ import annotations

import numpy as np

from sparsecc.codegen.cpu.operators import turn_tokens
from sparsecc.codegen.cpu.operators.turn_tokens import TurnSpec
from sparsecc.codegen.cpu.tape import Tape
from tests.codegen.cpu.kernels.running import HERE


def test_calls_run_in_their_order_and_kernels_are_compiled_once() -> None:
    into, tile, functions = TurnSpec(3, (5,), HERE.lanes), HERE.lanes, {}
    back = TurnSpec(3, (5,), tile, back=True)
    for _ in range(2):
        tape = Tape(HERE, functions)
        x = np.arange(15, dtype=np.float32).reshape(3, 5, 1)
        turned = tape.call(tape.kernel(into, lambda: turn_tokens.build(into, HERE)), [tape.weight(x)], (1, 5, tile))
        [again] = tape.call_for_several(tape.kernel(back, lambda: turn_tokens.build(back, HERE)), [turned], [((3, 5, 1), "float32")])
        tape.run()
        assert np.array_equal(tape.values(again), x)
    assert set(functions) == {into, back}
