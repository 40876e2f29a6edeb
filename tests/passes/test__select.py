from __future__ import annotations

import pytest
import torch

from sparsecc.errors import RecipeError, Refused
from sparsecc.formats import from_key
from sparsecc.graph.sites import WeightSite
from sparsecc.passes._select import never_trained, require_valid, select, untouchable
from tests.passes.fake import FakeGraph, conv, linear

GRAPH = FakeGraph([linear("encoder.query"), linear("encoder.key"), conv("stem"), linear("head")])


def names(targets: tuple[str, ...], ignore: tuple[str, ...] = ()) -> list[str]:
    return [site.name for site in select(GRAPH, WeightSite, targets, ignore)]


def test_by_name_kind_and_expression_in_execution_order() -> None:
    assert names(()) == ["encoder.query", "encoder.key", "stem", "head"]
    assert names(("head", "re:encoder.*")) == ["encoder.query", "encoder.key", "head"]
    assert names(("Linear",), ("re:.*key",)) == ["encoder.query", "head"]


def test_a_target_that_matches_nothing_is_an_error_that_names_what_is_near() -> None:
    with pytest.raises(RecipeError, match=r"targets: 'encoder.qery' matches no layer; did you mean 'encoder.query'"):
        names(("encoder.qery", "head"))
    with pytest.raises(RecipeError, match=r"targets: 're:decoder\.\*' matches no layer; did you mean 'encoder.key'"):
        names(("re:decoder.*", "head"))


def test_a_misspelt_name_to_ignore_is_an_error_but_a_kind_or_expression_is_not() -> None:
    with pytest.raises(RecipeError, match="ignore: 'haed' matches no layer; did you mean 'head'"):
        names((), ("haed",))
    assert len(names((), ("re:lm_head.*", "Conv2d"))) == 3


def test_long_models_are_not_listed_whole() -> None:
    graph = FakeGraph([linear(f"layer{i}") for i in range(30)])
    with pytest.raises(RecipeError, match=r"there are 30: .*, \.\.\.$"):
        select(graph, WeightSite, ("zzz",))


def test_a_model_without_layers_says_so() -> None:
    with pytest.raises(RecipeError, match="the model has none"):
        select(FakeGraph([]), WeightSite, ("x",))


@pytest.mark.parametrize(("target", "reason"), [("", "empty"), ("re:", "empty"), ("re:(", "no regular expression")])
def test_invalid_targets(target: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=f"targets: .*{reason}"):
        require_valid(targets=(target,))


def test_untouchable_weights() -> None:
    nan = torch.ones(8, 8)
    nan[3, 3] = float("nan")
    packed = from_key("csr").pack(torch.eye(8), torch.eye(8).bool())
    assert untouchable(linear("a", stored=nan)) == Refused("its weight holds NaN or infinity")
    assert untouchable(linear("a", shared=True)) == Refused("its weight serves other layers too")
    assert untouchable(linear("a", stored=packed)) == Refused("already packed as csr")
    assert untouchable(conv("a", groups=8)) == Refused("grouped convolution (8 groups) has no sparse operator")
    assert untouchable(linear("a", stored=torch.ones(8, 8, dtype=torch.int8))) == Refused("its weight is int8, not floating point")
    assert untouchable(linear("a")) is None


@pytest.mark.parametrize(
    ("targets", "left"), [((), True), (("Linear",), True), (("mel",), False), (("re:m.*",), False), (("re:f.*",), True)]
)
def test_a_constant_is_left_alone_unless_it_is_named(targets: tuple[str, ...], left: bool) -> None:
    reason = never_trained(linear("mel", constant=True), targets)
    assert (reason is not None) == left
    assert never_trained(linear("mel"), targets) is None
