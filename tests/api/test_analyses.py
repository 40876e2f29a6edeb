from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import sparsecc
from sparsecc.api.analyses import densities, ranks
from sparsecc.errors import InputError, UserError
from tests.laws.hosts import HOSTS, graph, model
from tests.passes.fake import FakeGraph, linear


def measured(**options):
    module, x = model("transformer")
    return sparsecc.sensitivity(module, (x,), calibration=[(x,)], levels=(0.5, 0.9), **options)


def test_the_curve_is_the_models_error_with_one_layer_pruned() -> None:
    module, x = model("transformer")
    report = measured(targets=["fc1"])
    [curve] = report.sites
    recipe = {"passes": [{"prune": {"targets": ["fc1"], "sparsity": 0.5}}]}
    program = torch.onnx.export(module, (x,), dynamo=True, verbose=False)
    assert program is not None
    pruned, _ = sparsecc.convert(program.model_proto, recipe)
    import onnxruntime

    session = onnxruntime.InferenceSession(pruned.SerializeToString())
    [y] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    dense = module(x).detach().numpy()
    assert curve.errors[0] == pytest.approx(np.linalg.norm(y - dense) / np.linalg.norm(dense), rel=1e-3)
    assert curve.errors[0] < curve.errors[1]
    assert curve.gain > 0


def test_gains_predict_small_errors_and_reports_say_what_was_left_out() -> None:
    report = measured(ignore=["head"], pattern="4x1")
    assert report.skipped == {}
    for curve in report.sites:
        assert curve.gain**0.5 * curve.layer_errors[0] == pytest.approx(curve.errors[0], rel=0.25)
    small = measured(targets=["head"], pattern="4x1")
    assert small.skipped == {"head": "35 rows (outputs) are no multiple of 4, 4x1 blocks need that"}
    assert small.sites == ()


def test_the_same_twice_and_the_model_as_it_was() -> None:
    before = {name: tensor.clone() for name, tensor in model("transformer")[0].state_dict().items()}
    assert measured(criterion="wanda") == measured(criterion="wanda")
    assert all(torch.equal(before[name], tensor) for name, tensor in model("transformer")[0].state_dict().items())


def test_what_it_cannot_do_without() -> None:
    module, x = model("transformer")
    with pytest.raises(UserError, match="calibration: needed"):
        sparsecc.sensitivity(module, (x,), calibration=None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no samples"):
        sparsecc.sensitivity(module, (x,), calibration=[])
    with pytest.raises(UserError, match=r"levels: \[\] are not"):
        sparsecc.sensitivity(module, (x,), calibration=[(x,)], levels=())
    with pytest.raises(UserError, match="samples: 0 is less than 1"):
        sparsecc.sensitivity(module, (x,), calibration=[(x,)], samples=0)


@pytest.mark.parametrize("host", HOSTS)
def test_densities_are_of_what_enters_a_layer(host: str) -> None:
    """The pointwise convolution reads all channels, the dilated one what a ReLU leaves of them."""
    module, x = model("convolutions")
    found = dict(densities(graph(host, "convolutions"), [(x,), (x,)]))
    stem = nn.functional.relu(module.stem(x))  # type: ignore[operator]
    entering = nn.functional.relu(module.pointwise(module.depthwise(stem)))  # type: ignore[operator]
    assert found["pointwise"]["nonzero"] == 1.0
    assert found["dilated"]["nonzero"] == pytest.approx(float((entering > 0).float().mean()), abs=1e-3)
    assert found["dilated"]["above_small"] == pytest.approx(float((entering > 0.01 * entering.max()).float().mean()), abs=1e-3)


def test_nothing_enters_from_empty_inputs() -> None:
    assert dict(densities(FakeGraph([linear("a")]), [(torch.empty(0, 64),)])) == {"a": {"nonzero": None, "above_small": None}}
    zeros = dict(densities(FakeGraph([linear("a")]), [(torch.zeros(2, 64),)]))
    assert zeros == {"a": {"nonzero": 0.0, "above_small": 0.0}}


def test_ranks_of_matrices_that_are_known() -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(48, 3, generator=generator) @ torch.randn(3, 32, generator=generator)
    assert ranks(low)["0.99"] <= 3 / 32
    assert ranks(torch.eye(20)) == {"0.9": 18 / 20, "0.99": 1.0}
    assert ranks(torch.diag(torch.tensor([3.0, 1.0, 0.0, 0.0]))) == {"0.9": 1 / 4, "0.99": 2 / 4}  # 9 of 10
    assert ranks(torch.zeros(4, 6)) == {"0.9": 0.0, "0.99": 0.0}
    assert ranks(torch.full((2, 2), float("nan"))) == {}
    tall = torch.randn(64, 16, generator=generator)
    assert ranks(tall) == ranks(tall.T)
