from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sparsecc.codegen.recognize.program import Program, dtype, shape
from tests.codegen.recognize.recognizing import imported, operators
from tests.codegen.whole import random

X = random(3, 4)
BIG = random(300, 300)  # too large to be folded on import


def test_inputs_nodes_and_outputs() -> None:
    program = imported(lambda x, y: (x + y, x * y, x), X, X + 1)
    assert operators(program) == ["add", "multiply"]
    assert [out == node.var for out, node in zip(program.outputs, program.nodes, strict=False)] == [True, True]
    assert program.outputs[2] == program.params[0]
    assert [(shape(p), dtype(p)) for p in program.params] == [((3, 4), "float32")] * 2


def test_what_nobody_reads_goes_with_what_it_read() -> None:
    program = imported(lambda x: (x.exp() + 1, x.tanh().sigmoid().abs()), X)
    program.outputs = program.outputs[:1]
    program.refresh()
    assert operators(program) == ["exp", "add"]


def user_of_exp(function: object) -> tuple[Program, str | None]:
    program = imported(function, X)  # type: ignore[arg-type]
    user = program.only_user(next(node.var for node in program.nodes if node.op == "exp"))
    return program, None if user is None else user.op


def test_only_user() -> None:
    assert user_of_exp(lambda x: x.exp().tanh())[1] == "tanh"
    assert user_of_exp(lambda x: (lambda y: y.tanh() + y.sigmoid())(x.exp()))[1] is None
    assert user_of_exp(lambda x: (lambda y: y * y)(x.exp()))[1] is None, "one reader, that reads twice"
    assert user_of_exp(lambda x: (lambda y: (y, y.tanh()))(x.exp()))[1] is None, "also an output"


def constants(function: object, *inputs: Tensor) -> list[np.ndarray]:
    program = imported(function, *inputs)  # type: ignore[arg-type]
    found = [program.constant(arg) for node in program.nodes for arg in node.args]
    return [value for value in found if value is not None]


def test_constants_are_seen_through_what_turns_them() -> None:
    """Large ones, which import leaves as they are."""
    last = constants(lambda x: x @ BIG.reshape(450, 200).transpose(0, 1).reshape(4, -1), X)[-1]
    assert np.array_equal(last, BIG.reshape(450, 200).transpose(0, 1).reshape(4, -1).numpy())


def test_what_an_input_takes_part_in_is_no_constant() -> None:
    program = imported(lambda x: (x + torch.arange(4.0)).reshape(4, 3), X)
    assert [program.constant(node.var) for node in program.nodes] == [None, None]


def test_scalars() -> None:
    program = imported(lambda x: (x * 2.5, x + torch.arange(4.0), x - torch.full((1, 1), 3.0)), X)
    assert [program.scalar(node.args[1]) for node in program.nodes] == [2.5, None, 3.0]
