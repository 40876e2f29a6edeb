from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsecc.api import sources
from sparsecc.errors import InputError, ModelError, UserError
from sparsecc.graph.base import TensorSpec
from sparsecc.graph.inputs import bind

SPECS = (TensorSpec("x", (1, 4), "float32"), TensorSpec("ids", (1, 3), "int64"))
DYNAMIC = (TensorSpec("x", ("batch", 4), "float32"),)


def sample(seed=0):
    return [np.full((1, 4), seed, np.float32), np.full((1, 3), seed, np.int64)]


def test_example_inputs_in_every_form():
    x, ids = sample()
    for given in ((x, ids), [x, ids], {"ids": ids, "x": x}):
        found, source = sources.example(SPECS, given, None)
        assert source == "example"
        assert all(np.shares_memory(a.numpy(), b) for a, b in zip(found, [x, ids], strict=True))
    tensor = torch.zeros(2, 4)
    inputs, _ = sources.example(DYNAMIC, tensor, None)
    assert inputs[0].data_ptr() == tensor.data_ptr()
    with pytest.raises(InputError, match="input 'x' holds NaN"):
        sources.example(DYNAMIC, torch.full((2, 4), torch.nan), None)


def test_calibration_comes_before_random_inputs():
    given = bind(SPECS, sample(3))
    inputs, source = sources.example(SPECS, None, [given])
    assert inputs is given and source == "calibration"
    (x, _), source = sources.example(SPECS, None, None)
    assert x.shape == (1, 4) and x.std() > 0 and source == "random"
    assert np.array_equal(x, sources.random_inputs(SPECS)[0])


def test_an_unknown_size_names_the_input_and_the_option():
    assert not sources.shapes_known(DYNAMIC)
    with pytest.raises(InputError, match=r"input 'x' has no fixed size at axis 0 \('batch'\).*--input-shape x:1,4"):
        sources.random_inputs(DYNAMIC)


def test_random_inputs_take_shapes_and_integers_from_others():
    x, ids = sources.random_inputs(SPECS, like=sample(7), seed=1)
    assert (ids == 7).all() and not (x == 7).any()


def test_random_integers_stay_in_their_table_and_masks_show_something():
    specs = [TensorSpec("ids", (1, 99), "int64"), TensorSpec("mask", (1, 99), "bool"), TensorSpec("one", (), "int32")]
    ids, mask, one = sources.random_inputs(specs, limits={"ids": (-7, 7)})
    assert {*ids.ravel()} == {*range(7)}
    assert mask.dtype == bool and mask[0, 0] and not mask.all()
    assert one == 1


def test_what_is_no_model(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        sources.open_graph(tmp_path / "missing.onnx")
    (tmp_path / "m.sparsecc").touch()
    with pytest.raises(ModelError, match="is compiled already"):
        sources.open_graph(tmp_path / "m.sparsecc")
    with pytest.raises(UserError, match="a dict is no model"):
        sources.open_graph({})
    with pytest.raises(UserError, match="example_inputs: needed to trace Linear"):
        sources.open_graph(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="input_shapes: only an ONNX model"):
        sources.open_graph(torch.nn.Linear(2, 2), torch.zeros(1, 2), {"x": (1, 2)})


def test_names():
    assert sources.name_of("a/b.onnx") == "b.onnx"
    assert sources.name_of(torch.nn.Linear(2, 2)) == "Linear"


def test_a_folder_is_no_model(tmp_path):
    with pytest.raises(ModelError, match="is a folder; name a file"):
        sources.open_graph(tmp_path)


@pytest.mark.parametrize("given", [5, "abc", b"x"])
def test_what_is_no_set_of_inputs(given):
    with pytest.raises(InputError, match=r"inputs are a .*; pass an array, a tuple of them, or a dict by name"):
        sources.example(SPECS, given, None)


@pytest.mark.parametrize("shapes", [{"x": 3}, {"x": (3.5, 64)}, {"x": (None, 64)}, {"x": "ab"}, [3, 64]])
def test_what_is_no_shape(shapes):
    with pytest.raises(InputError, match="input_shapes: expected sizes by name"):
        sources.open_graph("m.onnx", input_shapes=shapes)


def test_a_name_that_is_too_long_is_no_file():
    with pytest.raises(ModelError, match="a: no such file: File name too long"):
        sources.open_graph("a" * 300)


def test_inputs_that_no_memory_holds_are_not_made_up():
    with pytest.raises(InputError, match="input 'x' is 1099511627776x1099511627776, which the memory does not hold"):
        sources.random_inputs([TensorSpec("x", (1 << 40, 1 << 40), "float32")])


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_inputs_that_this_memory_does_not_hold(monkeypatch, dtype):
    spec = TensorSpec("x", (1000, 1000), dtype)
    sources.random_inputs([spec])
    monkeypatch.setattr(sources.memory, "available", lambda: 999_999)
    with pytest.raises(InputError, match="input 'x' is 1000x1000, which the memory does not hold"):
        sources.random_inputs([spec])


def test_values_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    specs = [TensorSpec("x", (5, 7), "float32"), TensorSpec("ids", (5, 7), "int32"), TensorSpec("one", (), "float64")]
    whole = sources.random_inputs(specs, limits={"ids": (0, 30000)})
    assert np.array_equal(whole[0], np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32))
    monkeypatch.setattr(sources, "_PIECE", 3)
    for a, b in zip(whole, sources.random_inputs(specs, limits={"ids": (0, 30000)}), strict=True):
        assert np.array_equal(a, b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
