"""A torchrun job of two processes on one machine."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsecc import cli
from tests.ranks import job, small


@dataclass(frozen=True)
class Job:
    """ranks: what each process has found.  printed: what all of them printed.  folder: with one for the files of each."""

    ranks: list[dict[str, Any]]
    printed: str
    folder: Path


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.ranks.job", str(folder)]
    done = subprocess.run(start, capture_output=True, text=True, timeout=90, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == 0, done.stderr
    return Job([pickle.loads((folder / f"rank{rank}.pickle").read_bytes()) for rank in range(2)], done.stdout + done.stderr, folder)


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    """What one process finds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = job.results()
    torch.set_num_threads(threads)
    return found


def test_every_result_is_that_of_one_process_to_the_last_bit(two: Job, one: dict[str, Any]) -> None:
    for rank in two.ranks:
        assert [name for name in one if rank["results"][name] != one[name]] == []


def test_recipes_did_something(one: dict[str, Any]) -> None:
    assert len({one[name][0] for name in job.RECIPES}) == len(job.RECIPES)
    assert "6 sites: 6 sparse" in one["sparsegpt"][1]
    assert one["one sample"][0] != one["sparsegpt"][0]


def test_work_is_divided_by_what_it_costs(two: Job) -> None:
    assert [rank["world"] for rank in two.ranks] == [(0, 2), (1, 2)]
    assert [rank["who"] for rank in two.ranks] == [[0, 1, 1]] * 2
    assert all(rank["nested"] for rank in two.ranks)


@pytest.mark.parametrize(
    ("case", "kind", "words"),
    [
        ("one_fails", "InputError", "sample 3: holds sand"),
        ("one_fails_after_all", "InputError", "too late"),
        ("one_has_other_samples", "InputError", "calibration, sample 0"),
        ("one_has_another_recipe", "UserError", "rank 0 is at \"statistics of 'xq_node'\" and rank 1 at 'recovery'"),
        ("all_fail", "RecipeError", "passes[0].prune.criterion: this one needs calibration inputs"),
    ],
)
def test_an_error_of_one_rank_is_the_error_of_all(two: Job, case: str, kind: str, words: str) -> None:
    first, second = (rank["failures"][case] for rank in two.ranks)
    assert first == second
    assert first[0] == kind
    assert words in first[1]


def test_errors_that_are_not_ours_say_whose_they_were(two: Job) -> None:
    first, second = (rank["failures"]["one_fails_at_work"] for rank in two.ranks)
    assert first == ("SparseccError", "rank 1: ValueError: no square")
    assert second == ("ValueError", "no square")


def test_commands_end_alike_on_all_ranks(two: Job) -> None:
    first, second = (rank["codes"] for rank in two.ranks)
    assert first == second
    assert first == {"convert": 0, "sensitivity": 0, "no such recipe": 2, "only the first writes": 2, "tune": 2}


def test_rank_0_alone_prints_and_writes(two: Job) -> None:
    assert two.printed.count("small.onnx on onnx") == 1
    assert two.printed.count("no.yaml") == 1
    assert two.printed.count("tune: runs in one process, not under torchrun") == 1
    assert {"two.onnx", "two.json"} <= {path.name for path in (two.folder / "rank0").iterdir()}
    assert {path.name for path in (two.folder / "rank1").iterdir()} == {"small.onnx", "samples.npz"}


def test_a_command_writes_what_it_writes_in_one_process(two: Job, tmp_path: Path) -> None:
    model, calib = small.write(tmp_path)
    out = tmp_path / "one.onnx"
    assert cli.main(["convert", str(model), str(out), "-r", job.RECIPES["sparsegpt"], "--calib", str(calib)]) == 0
    assert out.read_bytes() == (two.folder / "rank0" / "two.onnx").read_bytes()
