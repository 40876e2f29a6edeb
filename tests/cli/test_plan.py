from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sparsecc.attention import export
from sparsecc.attention.base import BlockMap, Grid, required
from sparsecc.attention.plan import Plan, Planned


def some_map(block: int = 64, causal: bool = False) -> BlockMap:
    """Head 1 is dense. The first head keeps its diagonal alone."""
    grid = Grid.line(6 * block) if causal else Grid(6, 2, block // 2)
    keep = torch.stack([required(grid, block), torch.ones(6, 6, dtype=torch.bool)])
    return BlockMap(grid, block, None if causal else torch.tensor([1, 0]).byte(), keep.tril() if causal else keep, causal)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Plan("m" * 64, [Planned("a.attn", some_map(), (0.2, 1.0)), Planned("b", some_map(causal=True))]).save(tmp_path / "plan.json")
    return tmp_path / "plan.json"


def test_what_is_in_a_plan(call, path, tmp_path):
    code, text, errors = call("plan", "inspect", path, "--json", tmp_path / "i.json")
    assert (code, errors) == (0, [])
    assert text.splitlines() == [
        f"{path}: version 2, 2 maps, model mmmmmmmmmmmm",
        "a.attn, steps 0.2 to 1  384 tokens (6×2×32) in blocks of 64, density 0.58",
        "    head 0  density 0.17  order FWH",
        "    head 1  dense  order FHW",
        "b  384 tokens (1×1×384) in blocks of 64, causal, density 0.64",
        "    head 0  density 0.29  order of the model",
        "    head 1  dense  order of the model",
    ]
    first, _ = json.loads((tmp_path / "i.json").read_text())["maps"]
    assert (first["grid"], first["dense_heads"], first["heads"][0]["order"]) == ([6, 2, 32], [1], "FWH")


def test_one_site(call, path):
    code, text, _ = call("plan", "inspect", path, "--site", "b")
    assert code == 0 and "a.attn" not in text and "b  384 tokens" in text
    code, _, [error] = call("plan", "inspect", path, "--site", "c")
    assert code == 2 and error.endswith("has no attention 'c'; it has a.attn, b")


@pytest.mark.parametrize("form", export.FORMS)
def test_an_export_is_what_the_plan_says(call, path, form, tmp_path):
    code, text, errors = call("plan", "export", path, "--to", form, "--out", tmp_path / "out.npz", "--json", tmp_path / "e.json")
    assert (code, errors) == (0, []) and f"out.npz: 2 maps as {form}" in text
    assert ("note: a.attn, steps 0.2 to 1: density 0.67 as exported, 0.58 in the plan" in text) == (form == "bitmap")
    assert [row["name"] for row in json.loads((tmp_path / "e.json").read_text())["maps"]] == ["a.attn", "b"]
    found = export.read(tmp_path / "out.npz")
    assert form == "bitmap" or all(torch.equal(one.keep, planned.map.keep) for one, planned in zip(found, Plan.load(path).planned))


def test_what_is_no_plan_is_one_line(call, path, tmp_path):
    (tmp_path / "x.json").write_text("{}")
    next(tmp_path.glob("plan.*.npz")).unlink()
    other = json.loads(path.read_text()) | {"plan": 3}
    (tmp_path / "newer.json").write_text(json.dumps(other))
    for name, said in (
        ("none.json", "No such file"),
        ("x.json", "no plan"),
        ("plan.json", "No such file"),
        ("newer.json", "a plan of version 3"),
    ):
        for command in (["inspect"], ["export", "--to", "bsr", "--out", tmp_path / "out.npz"]):
            code, _, [error] = call("plan", command[0], tmp_path / name, *command[1:])
            assert code == 2 and said in error
    assert not (tmp_path / "out.npz").exists()


def test_a_map_that_a_form_does_not_hold(call, tmp_path):
    Plan.of("m", {"a": some_map(32)}).save(tmp_path / "plan.json")
    code, _, [error] = call("plan", "export", tmp_path / "plan.json", "--to", "bitmap", "--out", tmp_path / "out.npz")
    assert code == 2 and "blocks are of 32 tokens; 64 and 128 fit" in error
    code, _, [error] = call("plan", "export", tmp_path / "plan.json", "--to", "csr", "--out", tmp_path / "out.npz")
    assert code == 2 and "csr" in error


def test_the_plan_is_not_overwritten(call, path):
    code, _, [error] = call("plan", "export", path, "--to", "flex", "--out", path)
    assert code == 2 and "is named twice" in error
