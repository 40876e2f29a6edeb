"""Variants of a model for their times and sizes alone."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

from sparsecc.api.trials import Trials
from sparsecc.codegen import choose
from sparsecc.errors import UserError

BLOCKS = {"passes": [{"prune": {"criterion": "random", "pattern": "4x1", "sparsity": 0.75}}, {"pack": {}}]}
INT8 = {"passes": [{"quantize": {}}]}


@cache
def trials() -> Trials:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    return Trials.open(module, torch.randn(32, 64), threads=1)


def test_what_was_done_where() -> None:
    assert trials().sites == ("0", "2", "4")
    assert trials().deeds(BLOCKS) == {"0": 2, "2": 2, "4": 0}  # the last one is too small
    assert trials().deeds({"passes": [*BLOCKS["passes"], {"quantize": {"min_weights": 1}}]}) == {"0": 3, "2": 3, "4": 1}


def test_what_a_variant_computes_and_stores() -> None:
    compiled = trials().compile(INT8)
    [y] = compiled.flat(trials().example)
    [dense] = trials().compile({"passes": []}).flat(trials().example)
    assert float((torch.as_tensor(y) - torch.as_tensor(dense)).abs().max()) < 0.1
    assert compiled.report.totals == {**compiled.report.totals, "bytes_kept": 2 * 64 * 64 + 4 * 64 * 8}
    assert trials().report(INT8).totals["bytes_kept"] == compiled.report.totals["bytes_kept"]
    assert compiled.report.check is None and all(site.output_error is None for site in compiled.report.sites)


def test_layers_alike_are_timed_once_over_all_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    first = trials().compile(BLOCKS).report
    monkeypatch.setattr(choose.Chooser, "_timed", None)
    assert trials().compile(BLOCKS).report.sites == first.sites
    only = {"passes": [{"prune": {**BLOCKS["passes"][0]["prune"], "targets": ["2"]}}, {"pack": {"targets": ["2"]}}]}
    assert trials().compile(only).report.sites[1] == first.sites[1]


def test_the_model_stays_as_it_is() -> None:
    before = str(trials().graph)
    trials().compile(BLOCKS)
    assert str(trials().graph) == before


def test_other_shapes_and_other_machines() -> None:
    with pytest.raises(UserError, match="of the example's shapes alone"):
        trials().compile({"passes": []}).flat([torch.randn(16, 64)])
    with pytest.raises(UserError, match="compiled for CPUs"):
        Trials.open(nn.Linear(4, 4), torch.randn(2, 4), target="cuda:sm_90a")
