"""What holds for every structure, whatever the weight, and on every host."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsecc import registry, structures
from sparsecc.graph.base import Graph
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import Linear
from sparsecc.ops.structured_linear.torch import StructuredLinear
from sparsecc.structures.base import Structure, Structured, apply
from tests.laws.hosts import HOSTS, graph, outputs
from tests.laws.members import STRUCTURES
from tests.tolerance import RELATIVE, assert_close

every_structure = pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: s.key)
every_nearest = pytest.mark.parametrize("structure", [s for s in STRUCTURES if s.nearest], ids=lambda s: s.key)
every_host = pytest.mark.parametrize("host", HOSTS)
SIDES = st.sampled_from([24, 40, 64])  # all STRUCTURES have these
SEEDS = st.integers(0, 2**32)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def planted(structure: Structure, rows: int, cols: int, seed: int) -> Tensor:
    """A matrix of the structure."""
    names = structure.tensor_names
    weights = {name: random(*shape, seed=seed + i) for i, (name, shape) in enumerate(zip(names, structure.shapes(rows, cols), strict=True))}
    return Structured(structure, rows, cols, weights).dense()


def relative(actual: Tensor, oracle: Tensor) -> float:
    return float((actual - oracle).norm() / oracle.norm())


@every_nearest
@given(rows=SIDES, cols=SIDES, seed=SEEDS)
def test_what_has_the_structure_comes_back(structure: Structure, rows: int, cols: int, seed: int) -> None:
    weight = planted(structure, rows, cols, seed)
    assert relative(structure.project(weight).dense(), weight) <= 1e-5
    covariance = torch.cov(random(cols, 2 * cols, seed=seed))
    assert relative(structure.project(weight, covariance).dense(), weight) <= 1e-5


@every_nearest
@given(rows=SIDES, cols=SIDES, seed=SEEDS)
def test_projecting_twice_is_projecting_once(structure: Structure, rows: int, cols: int, seed: int) -> None:
    once = structure.project(random(rows, cols, seed=seed)).dense()
    assert relative(structure.project(once).dense(), once) <= 1e-5


@every_nearest
@given(rows=SIDES, cols=SIDES, seed=SEEDS)
def test_what_is_lost_is_at_right_angles_to_what_stays(structure: Structure, rows: int, cols: int, seed: int) -> None:
    """As it must be for the nearest of a set that holds every multiple of its members."""
    weight = random(rows, cols, seed=seed).double()
    found = structure.project(weight).dense()
    assert abs(float(((weight - found) * found).sum())) <= 1e-10 * float(weight.square().sum())
    assert float((weight - found).norm()) < float(weight.norm())


@every_nearest
@given(rows=SIDES, cols=SIDES, seed=SEEDS)
def test_never_worse_than_another_member(structure: Structure, rows: int, cols: int, seed: int) -> None:
    """The best multiple of a random one, and the projection of a weight near by."""
    weight, other = random(rows, cols, seed=seed), planted(structure, rows, cols, seed)
    near = structure.project(weight + 0.1 * random(rows, cols, seed=seed + 1)).dense()
    error = float((structure.project(weight).dense() - weight).norm())
    assert error <= float((other * (weight * other).sum() / other.square().sum() - weight).norm()) * (1 + 1e-5)
    assert error <= float((near - weight).norm()) * (1 + 1e-5)


@every_structure
@given(rows=SIDES, cols=SIDES, seed=SEEDS)
def test_where_it_whitens_the_outputs_are_never_worse(structure: Structure, rows: int, cols: int, seed: int) -> None:
    weight, x = random(rows, cols, seed=seed), random(2 * cols, cols, seed=seed + 1) @ random(cols, cols, seed=seed + 2)
    plain, whitened = (structure.project(weight, h).dense() for h in (None, x.T @ x / len(x)))
    if not structure.whitens:
        assert torch.equal(plain, whitened)
    assert float((x @ (whitened - weight).T).norm()) <= float((x @ (plain - weight).T).norm()) * (1 + 1e-4)


@every_structure
@given(rows=SIDES, cols=SIDES, seed=SEEDS, dtype=st.sampled_from(list(RELATIVE)))
def test_factors_are_as_said_and_the_weight_stays(structure: Structure, rows: int, cols: int, seed: int, dtype: torch.dtype) -> None:
    weight = random(rows, cols, seed=seed).to(dtype)
    before = weight.clone()
    found = structure.project(weight)
    assert torch.equal(weight, before)
    assert tuple(found.tensors) == structure.tensor_names
    assert tuple(tuple(tensor.shape) for tensor in found.tensors.values()) == structure.shapes(rows, cols)
    positions = [found.tensors[name] for name in structure.index_names]
    assert all(tensor.is_contiguous() for tensor in found.tensors.values())
    assert all(tensor.dtype == (torch.uint8 if name in structure.index_names else dtype) for name, tensor in found.tensors.items())
    assert found.nbytes == structure.params(rows, cols) * dtype.itemsize + sum(index.numel() for index in positions)
    assert structure.params(rows, cols) <= structure.products(rows, cols)
    x = random(3, cols, seed=seed).to(dtype)
    assert_close(apply(found.factors(), x), x @ found.dense().T)


@every_structure
@given(rows=SIDES, cols=SIDES, seed=SEEDS)
def test_neither_strides_nor_repetition_matter(structure: Structure, rows: int, cols: int, seed: int) -> None:
    weight = random(rows, cols, seed=seed)
    first, second = structure.project(weight), structure.project(weight.T.contiguous().T)
    assert all(torch.equal(tensor, second.tensors[name]) for name, tensor in first.tensors.items())


@pytest.mark.parametrize("name", registry.members("structures"))
@given(rows=st.integers(1, 200), cols=st.integers(1, 200), params=st.floats(0.01, 0.99))
def test_candidates_keep_to_the_budget_and_read_back(name: str, rows: int, cols: int, params: float) -> None:
    for structure in structures.sized(name, rows, cols, params):
        assert structure.check(rows, cols) is None
        assert 0 < structure.params(rows, cols) <= params * rows * cols
        assert structures.from_key(structure.key) == structure


@cache
def replaced(host: str, key: str) -> Graph:
    """The transformer with every layer that can have the structure in it."""
    structure, result = structures.from_key(key), graph(host, "transformer").copy()
    for site in result.sites(Linear):
        if structure.check(site.rows, site.cols) is None:
            result.replace(site, StructuredLinear(structure.project(site.weight), site.bias))
    return result


@every_host
@every_structure
def test_outputs_are_those_of_the_dense_product(host: str, structure: Structure) -> None:
    after = replaced(host, structure.key)
    assert sum(site.form is not None for site in after.sites(Linear)) >= 6
    oracle = graph(host, "transformer").copy()
    for before, site in zip(oracle.sites(Linear), after.sites(Linear), strict=True):
        assert (site.name, site.kind, site.activation, site.shape) == (before.name, before.kind, before.activation, before.shape)
        if site.form is not None:
            assert site.form.storage == structure
            assert site.packed is None
            oracle.set_weight(before, site.weight)
    assert_close(outputs(after, "transformer")[0], outputs(oracle, "transformer")[0])


@every_structure
def test_hosts_agree(structure: Structure) -> None:
    first, *others = (replaced(host, structure.key) for host in HOSTS)
    for other in others:
        assert [site.name for site in first.sites(Linear)] == [site.name for site in other.sites(Linear)]
        for site, twin in zip(first.sites(Linear), other.sites(Linear), strict=True):
            assert_close(twin.weight, site.weight)
        assert_close(outputs(other, "transformer")[0], outputs(first, "transformer")[0])


LOADERS = {"fx": (FxGraph.load, "model.pt2"), "onnx": (OnnxGraph.from_file, "model.onnx")}


@every_host
@every_structure
def test_saved_and_loaded_it_is_the_same(host: str, structure: Structure, tmp_path: Path) -> None:
    before, (load, file) = replaced(host, structure.key), LOADERS[host]
    before.save(tmp_path / file)
    after = load(tmp_path / file)
    assert [(site.name, site.kind) for site in after.sites()] == [(site.name, site.kind) for site in before.sites()]
    for site, twin in zip(before.sites(Linear), after.sites(Linear), strict=True):
        assert (site.form and site.form.storage) == (twin.form and twin.form.storage)
        assert torch.equal(site.weight, twin.weight)
    assert torch.equal(outputs(after, "transformer")[0], outputs(before, "transformer")[0])
