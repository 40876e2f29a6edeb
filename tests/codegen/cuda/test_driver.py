from __future__ import annotations

import ctypes
import json
from dataclasses import asdict
from typing import Any

import pytest

from sparsecc.codegen.cuda import driver
from sparsecc.errors import SparseccError, UserError


class Library:
    """A driver that writes down what it is asked for and answers with `code`."""

    def __init__(self, code: int) -> None:
        self.code = code

    def cuTensorMapEncodeTiled(self, place: int, kind: int, rank: int, address: int, *rest: Any) -> int:
        shape, strides, box, steps, *self.modes = rest
        self.place, self.kind, self.address = place, kind, address
        self.shape, self.strides, self.box, self.steps = list(shape), list(strides), list(box), list(steps)
        ctypes.memset(place, 0xAB, 128)
        return self.code

    def cuGetErrorString(self, code: int, text: Any) -> int:
        text._obj.value = b"invalid argument"
        return 0


def test_a_tensor_map_has_its_dimensions_from_the_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_driver", lambda: library)
    library = Library(0)
    assert driver.tensor_map(4096, driver.Boxes(2, (5, 0, 64), (12800, 128), (1, 8, 64)), 100) == b"\xab" * 128
    assert (library.shape, library.strides, library.box, library.steps) == ([64, 100, 5], [128, 12800], [64, 8, 1], [1, 1, 1])
    assert (library.kind, library.address, library.place % 64) == (1, 4096, 0)
    assert library.modes == [0, 3, 3, 0]


def test_a_tensor_that_cannot_be_copied_in_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_driver", lambda: Library(1))
    with pytest.raises(SparseccError, match=r"a tensor map of \[5, 9\] at 0x1001, Boxes.*: the CUDA driver says: invalid"):
        driver.tensor_map(0x1001, driver.Boxes(2, (5, 9), (18,), (1, 8)))


def test_a_geometry_is_read_from_json() -> None:
    geometry = driver.Geometry((3, 1, 1), 128, 4096, 2, True, (("X", driver.Boxes(2, (0, 64), (128,), (8, 64))),))
    assert driver.Geometry.read(json.loads(json.dumps(asdict(geometry)))) == geometry == driver.Geometry.read(asdict(geometry))


def test_structures_are_laid_out_as_the_driver_has_them() -> None:
    """cuda.h of CUDA 12 and 13: CUlaunchConfig, CUlaunchAttribute."""
    assert ctypes.sizeof(driver._Config) == 56 and driver._Config.stream.offset == 32 and driver._Config.attributes.offset == 40
    assert ctypes.sizeof(driver._Attribute) == 72 and driver._Attribute.value.offset == 8


@pytest.mark.skipif(driver.present(), reason="there is a CUDA driver")
def test_without_a_driver_one_line_says_so() -> None:
    geometry = driver.Geometry((1, 1, 1), 32, 0)
    with pytest.raises(UserError, match=r"no CUDA driver \(libcuda.so.1\)"):
        driver.Kernel(b"", "kernel", geometry, "")
