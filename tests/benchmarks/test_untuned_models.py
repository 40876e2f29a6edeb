from __future__ import annotations

import numpy as np
import onnx
import pytest

from benchmarks import untuned_models
from benchmarks.light_models import draw_weights
from benchmarks.untuned_models import MODELS, Outcome, check, noise
from sparsecc.errors import InputError, ModelError, UserError
from tests.benchmarks.light import light_model


@pytest.fixture
def model(tmp_path):
    onnx.save(draw_weights(light_model()), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


INPUTS = {"x": np.ones((2, 3, 4, 4), np.float32)}


@pytest.fixture
def compiling(monkeypatch):
    """Sets what compiling answers with: a function of the inputs, or an error."""

    def answer(result):
        def compile(self, workload, threads):
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(untuned_models.Sparsecc, "compile", compile)

    return answer


def test_names_are_unique():
    assert len({model.name for model in MODELS}) == len(MODELS) >= 6


@pytest.mark.parametrize(("factor", "status"), [(1.0, "match"), (1.0001, "match"), (1.01, "mismatch")])
def test_outputs_are_compared(model, compiling, factor, status):
    import onnxruntime

    session = onnxruntime.InferenceSession(model)
    compiling(lambda x: tuple(factor * y for y in session.run(None, {"x": x})))
    outcome = check("m", "package==1", model, INPUTS, 1)
    assert (outcome.status, outcome.good) == (status, status == "match")
    assert outcome.max_rel == pytest.approx(factor - 1, abs=1e-6)
    assert outcome.operators == "Conv:1 Softmax:1"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ModelError("the compiler has no operator for: Conv (at 'c')"), "refused"),
        (ModelError("the compiler has no operator for: LSTM (at 'l')"), "error"),  # the model has none
        (ModelError("Conv: something"), "error"),
        (InputError("Conv (at 'c') wants something else"), "error"),
    ],
)
def test_only_an_error_that_names_an_operator_and_its_place_is_good(model, compiling, error, status):
    compiling(error)
    outcome = check("m", "", model, INPUTS, 1)
    assert (outcome.status, outcome.message) == (status, str(error))


def test_noise_takes_the_shapes_given():
    inputs = noise(draw_weights(light_model()), {"x": (2, 3, 4, 4)})
    assert {name: value.shape for name, value in inputs.items()} == {"x": (2, 3, 4, 4)}
    assert inputs["x"].dtype == np.float32


def test_an_open_shape_is_an_error_that_says_what_to_give():
    with pytest.raises(UserError, match=r"x: shape \(0, 3, 4, 4\) is open; give --input-shape x:"):
        noise(draw_weights(light_model()), {})


def test_the_table_has_a_row_for_each_model():
    outcomes = [Outcome("a", "p==1", "match", 1e-6), Outcome("b", "", "crash", message="no answer in 900 s")]
    table = untuned_models._markdown(outcomes).splitlines()
    assert table[2:] == ["| a | p==1 | match | 1.0e-06 |  |", "| b |  | crash |  | no answer in 900 s |"]
