from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from sparsecc.attention import orders
from sparsecc.attention.base import BlockMap, Grid, required
from sparsecc.attention.plan import Plan, Planned, fingerprint
from sparsecc.errors import RecipeError

SITES = [("blocks.0.attn", 3, 64), ("blocks.1.attn", 2, 64)]


def some_map(heads: int, seed: int, grid: Grid = Grid(3, 5, 7, text_tokens=4, text_first=False)) -> BlockMap:
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(heads, grid.blocks(8), grid.blocks(8), generator=generator) < 0.4
    return BlockMap(grid, 8, torch.randint(0, 6, (heads,), generator=generator).to(torch.uint8), keep | required(grid, 8))


def plan() -> Plan:
    return Plan.of(fingerprint(SITES), {name: some_map(heads, seed) for seed, (name, heads, _) in enumerate(SITES)})


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_it_comes_back(tmp_path: Path) -> None:
    before = plan()
    before.save(tmp_path / "plan.json")
    after = Plan.load(tmp_path / "plan.json")
    assert (after.model, list(after.maps)) == (before.model, list(before.maps))
    for name, found in after.maps.items():
        assert (found.grid, found.block) == (before.maps[name].grid, before.maps[name].block)
        assert torch.equal(found.places(), before.maps[name].places())
        assert torch.equal(found.keep, before.maps[name].keep)


def test_a_causal_map_without_orders_comes_back(tmp_path: Path) -> None:
    grid = Grid.line(30, 2)
    keep = required(grid, 8, causal=True).repeat(2, 1, 1)
    Plan.of("model", {"a": BlockMap(grid, 8, None, keep, causal=True)}).save(tmp_path / "plan.json")
    found = Plan.load(tmp_path / "plan.json").maps["a"]
    assert (found.grid, found.orders, found.causal) == (grid, None, True)
    assert torch.equal(found.keep, keep)


def test_orders_token_by_token_come_back(tmp_path: Path) -> None:
    grid = Grid(2, 3, 5, text_tokens=2)
    order = torch.stack([orders.hilbert(grid), orders.morton(grid)]).int()
    Plan.of("model", {"a": BlockMap(grid, 8, order, required(grid, 8).repeat(2, 1, 1))}).save(tmp_path / "plan.json")
    found = Plan.load(tmp_path / "plan.json").maps["a"].orders
    assert found is not None and found.dtype == torch.int32 and torch.equal(found, order)


def early_and_late() -> Plan:
    """One attention whose first steps are dense, with two maps after that, and one with a map for all steps."""
    late = Planned("blocks.0.attn", some_map(3, 1), (0.5, 1.0))
    early = Planned("blocks.0.attn", some_map(3, 0), (0.25, 0.5))
    return Plan(fingerprint(SITES), [late, early, Planned("blocks.1.attn", some_map(2, 2))])


def test_maps_for_parts_of_the_steps_come_back(tmp_path: Path) -> None:
    before = early_and_late()
    before.save(tmp_path / "plan.json")
    after = Plan.load(tmp_path / "plan.json")
    assert after.sites == ["blocks.0.attn", "blocks.1.attn"]
    for step, count in ((0.0, 1), (0.25, 2), (0.49, 2), (0.5, 2), (0.99, 2)):
        one, other = before.at(step), after.at(step)
        assert list(one) == list(other) and len(one) == count
        assert all(torch.equal(one[name].keep, other[name].keep) for name in one)
    assert not torch.equal(after.at(0.3)["blocks.0.attn"].keep, after.at(0.5)["blocks.0.attn"].keep)
    with pytest.raises(RecipeError, match=r"'blocks\.0\.attn' has a map for steps 0\.5 to 1 alone"):
        _ = after.maps


@pytest.mark.parametrize("steps", [((0.0, 0.6), (0.5, 1.0)), ((0.5, 1.0), (0.5, 1.0))])
def test_two_maps_for_one_step(steps) -> None:
    with pytest.raises(ValueError, match="'a' has two maps for one step"):
        Plan("model", [Planned("a", some_map(1, seed), part) for seed, part in enumerate(steps)])


@pytest.mark.parametrize("steps", [(0.5, 0.5), (-0.1, 1.0), (0.0, 1.5), (float("nan"), 1.0)])
def test_steps_that_are_no_part_of_a_schedule(steps) -> None:
    with pytest.raises(ValueError, match="are no part of 0 to 1"):
        Planned("a", some_map(1, 0), steps)


def test_version_1_is_read(tmp_path: Path) -> None:
    plan().save(tmp_path / "plan.json")
    edited(tmp_path / "plan.json", plan=1)
    assert list(Plan.load(tmp_path / "plan.json").maps) == [name for name, *_ in SITES]


def test_the_same_plan_is_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        plan().save(tmp_path / folder / "plan.json")
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_new_plan_takes_the_place_of_an_older_one_with_its_arrays(tmp_path: Path) -> None:
    plan().save(tmp_path / "plan.json")
    first = set(files(tmp_path))
    Plan.of("other", {"x": some_map(1, 7)}).save(tmp_path / "plan.json")
    assert len(files(tmp_path)) == len(first) == 2
    assert set(files(tmp_path)) & first == {"plan.json"}
    assert Plan.load(tmp_path / "plan.json").model == "other"


def test_arrays_that_others_made_or_read_stay(tmp_path: Path) -> None:
    path, theirs = tmp_path / "plan.json", tmp_path / "years.npz"
    theirs.write_bytes(b"of work")
    path.write_text(json.dumps({"plan": 1, "arrays": theirs.name}))
    plan().save(path)
    assert theirs.exists()
    shutil.copy(path, tmp_path / "plan.json.bak")
    [arrays] = tmp_path.glob("plan.*.npz")
    Plan.of("other", {}).save(path)
    assert arrays.exists()


def test_a_save_that_fails_leaves_the_older_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan().save(tmp_path / "plan.json")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("sparsecc.attention.plan.write_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        Plan.of("other", {"x": some_map(1, 7)}).save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json").model == plan().model


def test_other_names_heads_and_sizes_are_other_models() -> None:
    others = [SITES[:1], [*reversed(SITES)], [("blocks.0.attn", 4, 64), SITES[1]], [("blocks.0.attn", 3, 32), SITES[1]]]
    assert len({fingerprint(sites) for sites in [SITES, *others]}) == 5


def edited(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _no_arrays(path: Path) -> None:
    next(path.parent.glob("*.npz")).unlink()


def _other_arrays(path: Path) -> None:
    next(path.parent.glob("*.npz")).write_bytes(b"PK")


def _empty_row(path: Path) -> None:
    found = plan().maps
    hole = found["blocks.0.attn"].keep
    hole[1, 2] = False
    Plan.of("m", found).save(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), r"plan\.json: No such file"),
        (lambda path: path.write_text("{"), r"plan\.json: no plan that this sparsecc wrote"),
        (lambda path: path.write_text("[]"), r"plan\.json: no plan"),
        (lambda path: edited(path, plan=9), r"plan\.json: a plan of version 9, this sparsecc reads 1 and 2"),
        (lambda path: edited(path, sites=[{"name": "x"}]), r"plan\.json: no plan .*'grid'"),
        (lambda path: edited(path, sites=json.loads(path.read_text())["sites"] * 2), r"plan\.json: no plan .*'1\.keep"),
        (_no_arrays, r"\.npz: No such file"),
        (_other_arrays, r"\.npz is not the file that was written with it"),
        (_empty_row, r"plan\.json: no plan .*a row of blocks is empty"),
    ],
)
def test_what_is_no_plan_is_named(tmp_path: Path, damage, message: str) -> None:
    path = tmp_path / "plan.json"
    Plan.of(fingerprint(SITES), {"blocks.0.attn": some_map(3, 0, Grid(3, 5, 7))}).save(path)
    damage(path)
    with pytest.raises(RecipeError, match=message) as caught:
        Plan.load(path)
    assert "\n" not in str(caught.value)


def test_the_name_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"ends in \.json"):
        plan().save(tmp_path / "plan.npz")


def test_parts_in_which_the_maps_stay_the_same() -> None:
    found = some_map(2, 0)
    plan = Plan("m", [Planned("a", found, (0.2, 0.5)), Planned("a", found, (0.5, 1.0)), Planned("b", found, (0.4, 1.0))])
    assert plan.parts == [(0.0, 0.2), (0.2, 0.4), (0.4, 0.5), (0.5, 1.0)]
    assert [plan.part(step / 10) for step in range(10)] == [plan.parts[place] for place in (0, 0, 1, 1, 2, 3, 3, 3, 3, 3)]
    for step in range(10):
        assert plan.at(step / 10).keys() == plan.at(plan.part(step / 10)[0]).keys()
    assert Plan.of("m", {"a": found}).parts == [(0.0, 1.0)]
    for step in (1.0, -0.1):
        with pytest.raises(ValueError, match=rf"step {step:g} is not in \[0, 1\); step i of n is i / n"):
            plan.part(step)
