from __future__ import annotations

import signal
import sys

import pytest

from tests.cli.conftest import INPUTS
from tests.codegen.tuning import fleets

SHAPE = ("--input-shape", f"x:12,{INPUTS}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tracker", "127.0.0.1:1", "--key", "zen4"), "tracker 127.0.0.1:1: cannot be reached"),
        (("--tracker", "box", "--key", "zen4"), "tracker 'box': expected HOST:PORT"),
        (("--tracker", "127.0.0.1:1"), "tracker and key: go together"),
        (("--key", "zen4"), "tracker and key: go together"),
        (("--tracker", "127.0.0.1:1", "--key", ""), "tracker and key: go together"),
        (("--target", "cpu:znver1"), "is not this machine, so that nothing can be measured for it; tune there, or on a fleet"),
        (("--target", "cpu:znver1", "--tracker", "127.0.0.1:1", "--key", "zen1"), "cannot be reached"),
    ],
)
def test_tune_without_a_fleet_says_so_and_makes_no_file(call, model, tmp_path, options, message):
    code, text, [error] = call("tune", model, "--records", tmp_path / "r.db", *options, *SHAPE)
    assert (code, text) == (2, "") and message in error
    assert not (tmp_path / "r.db").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tracker", "127.0.0.1:1", "--key", "zen4"), "cannot be reached"),
        (("--tracker", "127.0.0.1:1", "--key", "zen 4"), "expected one word"),
        (("--tracker", "127.0.0.1:1", "--key", "zen4", "--threads", "0"), "'--threads'"),
    ],
)
def test_worker_mistakes(call, options, message):
    code, text, [error] = call("worker", *options)
    assert (code, text) == (2, "") and message in error


def test_a_worker_serves_tune_and_ends_by_ctrl_c(call, interruptible, model, tmp_path):
    with fleets.tracker() as tracker:
        command = [sys.executable, "-m", "sparsecc", "worker", "--tracker", str(tracker), "--key", "box", "--threads", "1"]
        process = interruptible(command)
        try:
            tune = ("tune", model, "--records", tmp_path / "r.db", "--threads", 1, "--trials", 3, *SHAPE)
            code, text, told = call(*tune, "--tracker", tracker, "--key", "box")
            assert code == 0 and "3 candidates measured" in text
            assert any(line.endswith(": measures") for line in told)
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        assert process.returncode == 130 and errors.splitlines()[-1] == "interrupted"
