"""Other tensors and operators in the places of a torch graph's sites."""

from __future__ import annotations

import torch

from sparsecc.graph.sites import Linear
from tests.graph.fx.test_graph import packed, prune
from tests.graph.fx_models import case
from tests.tolerance import assert_close


def test_a_shared_weight_that_is_set_stays_the_others() -> None:
    _, inputs, graph = case("tied")
    copy = graph.copy()
    before = [site.weight for site in copy.sites(Linear)]
    assert [site.shared for site in copy.sites(Linear)] == [True, True, True, False, True]
    for number, site in enumerate(copy.sites(Linear)):
        copy.set_weight(site, torch.full(site.shape, float(number)))
        for later, weight in zip(copy.sites(Linear)[number + 1 :], before[number + 1 :], strict=True):
            assert torch.equal(later.weight, weight)
    assert [float(site.weight.max()) for site in copy.sites(Linear)] == [0, 1, 2, 3, 4]
    assert not any(site.shared or site.constant for site in copy.sites(Linear))
    assert copy.run(inputs).outputs[0].shape == graph.run(inputs).outputs[0].shape


def test_replacing_one_of_several_users_keeps_the_dense_weight() -> None:
    _, inputs, graph = case("tied")
    copy = graph.copy()
    copy.replace(copy.sites(Linear)[0], packed(copy.sites(Linear)[0]))
    assert_close(copy.run(inputs).outputs[0], graph.run(inputs).outputs[0])
    assert copy.sites(Linear)[1].packed is None


def test_a_packed_layer_drops_its_dense_weight() -> None:
    _, _, graph = case("mlp")
    copy = graph.copy()
    site = prune(copy)[0]
    copy.replace(site, packed(site))
    assert [name for name, _ in copy.module.named_parameters()] == ["fc1.bias", "fc1.values", "fc2.weight", "fc2.bias"]
    assert [name for name, _ in copy.module.named_buffers()] == ["fc1.cols", "fc1.row_ptr"]
