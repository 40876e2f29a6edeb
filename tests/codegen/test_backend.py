from __future__ import annotations

import pytest

from sparsecc.codegen.backend import backend_of, named, names, parse, tunable
from sparsecc.errors import UserError


def test_a_backend_is_found_by_its_folder() -> None:
    assert names() == ["cpu", "cuda", "reference"]
    assert backend_of(parse("cpu:haswell", 2)) is named("cpu")


def test_a_target_that_nobody_knows() -> None:
    with pytest.raises(UserError, match=r"target 'gpu:x' is not known; there are: cpu, cpu:NAME, cuda, cuda:sm_90a,\.\., reference"):
        parse("gpu:x", 1)


def test_nothing_to_choose() -> None:
    with pytest.raises(UserError, match="target 'reference' has no kernels to choose between"):
        tunable(parse("reference", 1))
