"""Operands for which the code that TVM makes would end the process or leave memory: one model, compiled once, called with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import sparsecc
from sparsecc.errors import InputError
from sparsecc.runtime.compiled import Compiled
from tests.codegen.importers.onnx.test_operators import build
from tests.graph.onnx_models import random

FEEDS = {
    "a": np.array([7, -7, 8, 9], np.int32),
    "b": np.array([2, 2, -1, 4], np.int32),
    "zero": np.zeros(4, np.int32),
    "n": np.array([1, 2, 3, 4], np.int8),
    "x": random(2, 3, 8, 8),
    "regions": np.array([[0, 0, 4, 4], [1, 1, 6, 6]], np.float32),
    "image": np.array([0, 1]),
    "boxes": np.array([[0, 0, 0, 4, 4], [1, 1, 1, 6, 6]], np.float32),
    "shift": np.zeros((2, 5), np.float32),
    "grid": np.full((2, 2, 2, 2), 0.3, np.float32),
}


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    node = helper.make_node
    nodes = [
        node("Add", ["b", "zero"], ["computed"]),
        node("Div", ["a", "computed"], ["quotient"]),
        node("Mod", ["a", "computed"], ["modulo"]),
        node("Mod", ["a", "computed"], ["remainder"], fmod=1),
        node("Div", ["n", "n"], ["ones"]),
        node("Div", ["a", "fixed"], ["halves"]),
        node("RoiAlign", ["x", "regions", "image"], ["aligned"], output_height=2, output_width=2),
        node("MaxRoiPool", ["x", "boxes"], ["pooled"], pooled_shape=[2, 2]),
        node("Add", ["boxes", "shift"], ["shifted"]),
        node("MaxRoiPool", ["x", "shifted"], ["pooled_shifted"], pooled_shape=[2, 2]),
        node("GridSample", ["x", "grid"], ["sampled"], padding_mode="border"),
        node("Log", ["grid"], ["logs"]),
        node("GridSample", ["x", "logs"], ["sampled_logs"]),
    ]
    proto = build(nodes, FEEDS, {"fixed": np.array(2, np.int32)})
    for value in [value for value in proto.graph.output if value.name in ("computed", "logs", "shifted")]:
        proto.graph.output.remove(value)
    return sparsecc.compile(proto, FEEDS, recipe={"passes": []}, threads=1)


def called(compiled: Compiled, **other: np.ndarray) -> dict[str, np.ndarray]:
    return {spec.name: out for spec, out in zip(compiled.outputs, compiled(FEEDS | other), strict=True)}


def test_integers_divide_as_onnxruntime_divides_them(compiled: Compiled) -> None:
    assert compiled.report.check is not None and compiled.report.check.max_abs < 1e-5
    found = called(compiled)
    assert found["quotient"].tolist() == [3, -3, -8, 2]
    assert found["modulo"].tolist() == [1, 1, 0, 1]
    assert found["remainder"].tolist() == [1, -1, 0, 1]


def test_by_zero_and_the_least_integer_by_minus_one(compiled: Compiled) -> None:
    least = np.iinfo(np.int32).min
    found = called(compiled, a=np.array([7, least, least, -5], np.int32), b=np.array([0, -1, 0, -1], np.int32))
    assert found["quotient"].tolist() == [0, least, 0, 5]
    assert found["modulo"].tolist() == found["remainder"].tolist() == [0, 0, 0, 0]


def test_an_input_that_divides_may_hold_no_zero(compiled: Compiled, tmp_path: Path) -> None:
    compiled.save(tmp_path / "m.sparsecc")
    for model in (compiled, sparsecc.load(tmp_path / "m.sparsecc")):
        with pytest.raises(InputError, match=r"^input 'n' holds 0, and the model divides integers by it$"):
            called(model, n=np.array([1, 0, 3, 4], np.int8))


@pytest.mark.parametrize("image", [2, -1, 2**40])
def test_a_region_of_an_image_that_is_not_there(compiled: Compiled, image: int) -> None:
    with pytest.raises(InputError, match=r"^input 'image' holds .*, it indexes a table of 2 by 0 to 1$"):
        called(compiled, image=np.array([0, image]))


def test_computed_boxes_of_an_image_that_is_not_there_are_of_the_first(compiled: Compiled) -> None:
    boxes = FEEDS["boxes"] * np.array([0, 1, 1, 1, 1], np.float32)
    for image in (2, -5, 1e9, -np.inf):
        shift = np.zeros_like(boxes)
        shift[1, 0] = image
        found = called(compiled, boxes=boxes, shift=shift)
        assert np.array_equal(found["pooled_shifted"], found["pooled"])
        with pytest.raises(InputError, match=r"^input 'boxes' holds a region of image .*; there are 2, from 0 to 1$"):
            called(compiled, boxes=boxes + shift)


def test_coordinates_far_off_are_outside(compiled: Compiled) -> None:
    edge = called(compiled, grid=np.full((2, 2, 2, 2), 5, np.float32))["sampled"]
    assert np.allclose(called(compiled, grid=np.full((2, 2, 2, 2), 1e30, np.float32))["sampled"], edge)
    negative = called(compiled, grid=np.full((2, 2, 2, 2), -1, np.float32))  # whose logarithm is NaN
    assert not negative["sampled_logs"].any()
