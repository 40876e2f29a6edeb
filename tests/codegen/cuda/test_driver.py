from __future__ import annotations

import ctypes

import pytest

from sparsecc.codegen.cuda import driver
from sparsecc.errors import UserError


def test_structures_are_laid_out_as_the_driver_has_them() -> None:
    """cuda.h of CUDA 12 and 13: CUlaunchConfig, CUlaunchAttribute."""
    assert ctypes.sizeof(driver._Config) == 56 and driver._Config.stream.offset == 32 and driver._Config.attributes.offset == 40
    assert ctypes.sizeof(driver._Attribute) == 72 and driver._Attribute.value.offset == 8


@pytest.mark.skipif(driver.present(), reason="there is a CUDA driver")
def test_without_a_driver_one_line_says_so() -> None:
    geometry = driver.Geometry((1, 1, 1), 32, 0)
    with pytest.raises(UserError, match=r"no CUDA driver \(libcuda.so.1\)"):
        driver.Kernel(b"", "kernel", geometry, "")
