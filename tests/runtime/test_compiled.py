from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from sparsecc.errors import InputError, UserError
from sparsecc.runtime import compiled as module
from sparsecc.runtime.weights import content_key
from tests import ROOT
from tests.runtime import tiny


def expected(x):
    y = x @ tiny.WEIGHT.T
    return y, np.maximum(y, 0)


def assert_right(outputs, x):
    for output, want in zip(outputs, expected(x), strict=True):
        np.testing.assert_allclose(output, want, rtol=1e-5, atol=1e-5)


def test_numpy_in_numpy_out():
    x = tiny.example()
    outputs = tiny.compiled()(x)
    assert isinstance(outputs, tuple) and all(isinstance(output, np.ndarray) for output in outputs)
    assert_right(outputs, x)


def test_torch_in_torch_out():
    x = torch.from_numpy(tiny.example())
    outputs = tiny.compiled()(x=x)
    assert all(isinstance(output, torch.Tensor) for output in outputs)
    assert_right(outputs, x.numpy())


@pytest.mark.parametrize("make", [lambda x: {"x": x}, lambda x: {"x": np.asfortranarray(x)}, lambda x: {"x": x.copy()[:]}])
def test_inputs_by_name_in_any_layout(make):
    x = tiny.example(7)
    assert_right(tiny.compiled()(make(x)), x)


def test_read_only_and_unaligned_inputs_are_taken():
    x = tiny.example()
    x.flags.writeable = False
    buffer = np.zeros(x.nbytes + 4, np.uint8)[4:].view(np.float32).reshape(x.shape)
    buffer[...] = x
    call = tiny.compiled()
    assert_right(call(x), x)
    assert_right(call(buffer), x)


def test_an_empty_input_gives_an_empty_output():
    assert_right(tiny.compiled()(tiny.example(0)), tiny.example(0))


def test_earlier_outputs_survive_later_calls():
    call, x = tiny.compiled(), tiny.example()
    first = call(x)
    call(x + 1)
    assert_right(first, x)


def test_an_output_that_is_an_input_is_the_callers_own():
    x = tiny.example()
    handed_on = tiny.compiled(returns=(2,))(x)
    assert np.array_equal(handed_on, x)
    assert not np.shares_memory(handed_on, x)


def test_outputs_may_repeat():
    x = tiny.example()
    a, b = tiny.compiled(returns=(1, 1))(x)
    assert np.array_equal(a, b) and not np.shares_memory(a, b)


def test_a_new_shape_is_compiled_once_and_weights_are_kept_once():
    asked = []

    def specialize(values):
        asked.append(values[0].shape)
        return tiny.library(values[0].shape[0])

    call = tiny.compiled(specialize=specialize)
    for tokens in (7, 3, 7, 7):
        assert_right(call(tiny.example(tokens)), tiny.example(tokens))
    assert asked == [(7, tiny.COLS)]
    assert list(call.weights.arrays) == [content_key(tiny.WEIGHT)]


def test_weights_that_differ_between_shapes_are_both_kept():
    call = tiny.compiled()
    other = tiny.library(7)
    other.weights["fc.weight"][:] = 0
    call.add_library(other)
    assert list(call.weights.arrays) == [content_key(tiny.WEIGHT), content_key(np.zeros_like(tiny.WEIGHT))]
    assert not call(tiny.example(7))[0].any()
    assert_right(call(tiny.example(3)), tiny.example(3))


def test_the_least_recently_used_shape_makes_room(monkeypatch):
    monkeypatch.setattr(module, "MAX_SPECIALIZATIONS", 2)
    call = tiny.compiled()
    for tokens in (7, 3, 5):
        call(tiny.example(tokens))
    assert [entry.shapes for entry in call.specializations] == [((3, tiny.COLS),), ((5, tiny.COLS),)]


def test_weights_stay_held_once_when_the_shape_that_brought_them_is_gone(monkeypatch):
    monkeypatch.setattr(module, "MAX_SPECIALIZATIONS", 2)
    call = tiny.compiled()
    other = tiny.library(7)
    other.weights["fc.weight"][:] = 1
    call.add_library(other)
    for tokens in (5, 4):  # both with the first weight; what brought it makes room, then what brought the other
        call(tiny.example(tokens))
    assert list(call.weights.arrays) == [content_key(tiny.WEIGHT)]
    assert_right(call(tiny.example(5)), tiny.example(5))


def test_without_a_compiler_the_error_names_the_shapes_held():
    with pytest.raises(InputError, match=r"not compiled for x 4x24; this artifact holds: x 3x24"):
        tiny.compiled(specialize=None)(tiny.example(4))


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "input 'x' is missing; the model takes 1: x"),
        ((tiny.example(), tiny.example()), {}, "2 inputs given"),
        ((), {"y": tiny.example()}, "no input 'y'"),
        ((tiny.example(),), {"x": tiny.example()}, "given twice"),
        ((tiny.example().astype(np.float64),), {}, "input 'x' is float64, the model takes float32"),
        ((tiny.example()[0],), {}, r"input 'x' has shape \(24,\), the model takes \(tokens, 24\)"),
        ((tiny.example()[:, :5],), {}, "input 'x' has 5 at axis 1"),
        (([[1.0]],), {}, "input 'x' is a list"),
    ],
)
def test_wrong_inputs_are_named(args, kwargs, message):
    with pytest.raises(InputError, match=message):
        tiny.compiled()(*args, **kwargs)


def test_four_callers_in_four_threads():
    call, failures = tiny.compiled(tokens=None), []

    def work(seed):
        for i in range(40):
            x = tiny.example(3 + (seed + i) % 3)
            try:
                assert_right(call(x), x)
            except Exception as error:  # noqa: BLE001  # whatever it is, the test fails with it
                failures.append(error)

    callers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failures
    assert len(call.specializations) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"triple": "riscv64-linux-gnu"}, "compiled for riscv64-linux-gnu, this machine is .*; save it"),
        ({"features": ("imaginary",)}, "this CPU lacks imaginary; save it, and load it on such a machine"),
    ],
)
def test_code_for_another_machine_is_not_run(change, message):
    with pytest.raises(UserError, match=message):
        tiny.compiled(target=dataclasses.replace(tiny.TARGET, **change))(tiny.example())


def test_the_models_structure_is_kept():
    structure = {"kind": "dict", "items": {"a": {"kind": "leaf", "index": 1}, "b": {"kind": "none"}}}
    result = tiny.compiled(structure=structure)(tiny.example())
    assert list(result) == ["a", "b"] and result["b"] is None
    np.testing.assert_allclose(result["a"], expected(tiny.example())[1], rtol=1e-5, atol=1e-5)


def test_to_onnx_needs_an_onnx_model():
    with pytest.raises(UserError, match=r"torch\.onnx\.export"):
        tiny.compiled().to_onnx()
    assert tiny.compiled(to_onnx=lambda: "proto").to_onnx() == "proto"


def test_a_forked_child_calls_what_another_thread_of_its_parent_is_busy_with():
    """It was forked while that thread compiled, and laid out an input where the parent lays out its own."""
    script = (
        "import os, signal, threading, numpy as np\n"
        "from tests.runtime import tiny\n"
        "compiled, go_on = tiny.compiled(), threading.Event()\n"
        "wide = np.ones((6000, 2 * tiny.COLS), np.float32)\n"
        "compiled.add_library(tiny.library(6000))\n"
        "compiled(wide[:, ::2])\n"
        "compiling, specialize = threading.Event(), compiled._specialize\n"
        "compiled._specialize = lambda values: (compiling.set(), go_on.wait(60), specialize(values))[-1]\n"
        "other = threading.Thread(target=lambda: compiled(tiny.example(4)))\n"
        "other.start()\n"
        "compiling.wait(60)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    signal.alarm(60)\n"
        "    compiled._specialize = specialize\n"
        "    compiled(tiny.example(5))\n"
        "    compiled(0 * wide[:, ::2])\n"
        "    os._exit(0)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0\n"
        "go_on.set()\n"
        "other.join()\n"
        "[(buffer, _)] = compiled._staging._buffers.values()\n"
        "assert buffer.all()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_it_is_pickled_and_copied():
    x = tiny.example()
    for copied in (pickle.loads(pickle.dumps(tiny.compiled())), copy.deepcopy(tiny.compiled())):
        assert_right(copied(x), x)


def test_a_tensor_that_holds_the_opposite_of_what_it_means():
    x = torch.from_numpy(tiny.example())
    outputs = tiny.compiled()(torch.ops.aten._neg_view(x))
    assert_right([output.numpy() for output in outputs], -x.numpy())
