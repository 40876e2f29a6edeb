from __future__ import annotations

import pytest

from sparsecc.codegen.cuda.arch import capability, nearest, runs_on, source_for


def test_a_capability_is_read_off_a_name() -> None:
    assert [capability(name) for name in ("sm_80", "sm_90a", "sm_120")] == [(8, 0), (9, 0), (12, 0)]


@pytest.mark.parametrize(
    ("built", "device", "name"),
    [
        (("sm_80", "sm_89"), (8, 9), "sm_89"),
        (("sm_80", "sm_89"), (8, 6), "sm_80"),
        (("sm_89",), (8, 0), None),  # newer than the device
        (("sm_80",), (9, 0), None),  # of another generation
        (("sm_80", "sm_90a"), (9, 0), "sm_90a"),
        (("sm_90a",), (10, 0), None),  # an `a` is for that one alone
    ],
)
def test_code_runs_on_its_generation_and_no_older_device(built: tuple[str, ...], device: tuple[int, int], name: str | None) -> None:
    assert runs_on(built, device) == name


def test_a_source_is_for_every_newer_device() -> None:
    assert source_for(("sm_80", "sm_89", "sm_90a"), (12, 0)) == "sm_89"
    assert source_for(("sm_90a",), (12, 0)) is None


def test_the_row_of_a_device() -> None:
    assert [row and row.name for row in map(nearest, [(8, 6), (8, 9), (9, 0), (7, 5)])] == ["sm_86", "sm_89", "sm_90a", None]
