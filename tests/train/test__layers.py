from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from sparsecc.errors import RecipeError, UserError
from sparsecc.train._layers import survey
from sparsecc.train.base import Method
from sparsecc.train.gmp import Gmp


class Mixed(nn.Module):
    """A layer for each reason."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 32)
        self.body = nn.Linear(32, 48)
        self.odd = nn.Linear(48, 33)
        self.after_odd = nn.Linear(33, 64)
        self.depthwise = nn.Conv2d(64, 64, 7, groups=64)
        self.stem = nn.Conv2d(8, 64, 3)
        self.frozen = nn.Linear(64, 64).requires_grad_(False)
        self.other = nn.Linear(64, 64)
        self.normed = parametrizations.weight_norm(nn.Linear(64, 64))
        self.tied = nn.Linear(32, 40)
        self.tied.weight = self.embedding.weight
        self.broken = nn.Linear(64, 64)
        nn.init.constant_(self.broken.weight, torch.nan)
        self.tiny = nn.Linear(4, 4)


def reasons(model: nn.Module, method: Method) -> dict[str, str | None]:
    optimizer = torch.optim.SGD([p for name, p in model.named_parameters() if not name.startswith("other")], lr=0.1)
    return {site.name: reason and reason.reason for site, _, reason in survey(model, method, optimizer)}


def test_every_layer_that_stays_dense_has_its_reason() -> None:
    assert reasons(Mixed(), Gmp(steps=10, pattern="2:4")) == {
        "body": None,
        "odd": None,
        "after_odd": "33 columns (inputs) are no multiple of 4, 2:4 needs that",
        "depthwise": "grouped convolution (64 groups) has no sparse operator",
        "stem": None,
        "frozen": "the optimizer does not train its weight",
        "other": "the optimizer does not train its weight",
        "normed": "its weight is computed from other parameters (a parametrization, a weight norm)",
        "tied": "its weight serves other layers too",
        "broken": "its weight holds NaN or infinity",
        "tiny": "16 weights are fewer than min_weights 1024",
    }


def test_targets_as_in_recipes() -> None:
    assert list(reasons(Mixed(), Gmp(steps=10, targets=("re:o.*", "Conv2d"), ignore=("depthwise",)))) == ["odd", "stem", "other"]
    with pytest.raises(RecipeError, match="targets: 'bdy' matches no layer; did you mean 'body'"):
        reasons(Mixed(), Gmp(steps=10, targets=("bdy",)))


def test_no_layer_at_all() -> None:
    with pytest.raises(UserError, match="no layer can be trained with masks: layer 'tiny': 16 weights are fewer"):
        reasons(Mixed(), Gmp(steps=10, targets=("tiny",)))
    with pytest.raises(UserError, match="no Linear and no Conv2d"):
        reasons(nn.Embedding(3, 4), Gmp(steps=10))
    with pytest.raises(UserError, match="layer '0': its weight has no shape yet"):
        reasons(nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 4)), Gmp(steps=10))


def test_a_model_that_is_a_layer() -> None:
    assert reasons(nn.Linear(64, 64), Gmp(steps=10)) == {"Linear": None}
