from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sparsecc.codegen.cuda.driver import Geometry
from sparsecc.codegen.cuda.kernel import LinearSpec
from sparsecc.codegen.cuda.plan import Binary, Plan, Step, described, digest, read

BINARY = Binary("kernel", ("W", "X", "Y", "tokens"), Geometry((3, 1, 1), 128, 1024, dependent=True), b"\x7fELF", "source")
PLAN = Plan(LinearSpec("2:4", 48, 64, 0), {"W": 0}, (Step(8, "nm_decode", "rows 16", {"sm_90a": BINARY}), Step(64, "dense", "")), {})
CODES = {digest(b"\x7fELF"): b"\x7fELF", digest(b"source"): b"source"}


def test_a_plan_is_read_from_what_describes_it() -> None:
    assert read(json.loads(json.dumps(described(PLAN))), CODES) == PLAN


def test_the_key_of_a_plan_is_what_artifacts_hold() -> None:
    assert PLAN.key == "2:4 48x64 9b96687f31e9" and "layer" not in described(PLAN)


def test_plans_that_differ_in_anything_have_other_keys() -> None:
    others = [
        replace(PLAN, spec=replace(PLAN.spec, bias=True)),
        replace(PLAN, steps=PLAN.steps[:1]),
        replace(PLAN, steps=(replace(PLAN.steps[0], binaries={"sm_90a": replace(BINARY, cubin=b"\x7fELG")}), PLAN.steps[1])),
    ]
    assert len({plan.key for plan in (PLAN, *others)}) == 4


def test_code_that_is_missing() -> None:
    with pytest.raises(KeyError):
        read(described(PLAN), {})
