from __future__ import annotations

import json

import pytest

from sparsecc.report.profile import Profile, Row
from sparsecc.timing import Spread

ROWS = (
    Row("group_tokens_0", "group_tokens", None, ("query", "key"), 2.0),
    Row("dense_matmul_1", "dense_matmul", "query", (), 30.0),
    Row("dense_matmul_1", "dense_matmul", "key", (), 32.0),
    Row("fused_add", None, None, (), 6.0),
)
PROFILE = Profile(ROWS, Spread(80.0, 75.0, 90.0), Spread(1.5, 1.4, 1.6), rounds=7, threads=2)


def test_what_lies_between_is_what_no_kernel_takes() -> None:
    assert PROFILE.kernels_us == 70.0
    assert PROFILE.between == pytest.approx(0.125)


def test_calls_of_a_layer_are_added_up_and_shared_ones_belong_to_none() -> None:
    twice = Profile((*ROWS, Row("turn_2", "turn", "query", (), 1.0)), PROFILE.whole_us, PROFILE.watched, 7, 2)
    assert twice.by_site() == {"query": 31.0, "key": 32.0}


def test_the_table_says_whose_each_call_is() -> None:
    lines = str(PROFILE).splitlines()
    assert lines[:3] == [
        "  µs  share  kernel        site",
        " 2.0   2.5%  group_tokens  for query, key",
        "30.0  37.5%  dense_matmul  query",
    ]
    assert lines[4].split() == ["6.0", "7.5%", "fused_add"]
    assert lines[5] == "4 calls: 70 µs; between them 12.5%"
    assert lines[6] == "whole call: 80 µs (75 to 90, 7 rounds, 2 threads); 1.50 times as long while it was watched"


def test_through_json() -> None:
    assert Profile.from_dict(json.loads(json.dumps(PROFILE.to_dict()))) == PROFILE
