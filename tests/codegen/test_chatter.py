import os
import tempfile
import threading
from pathlib import Path
from types import FunctionType

import pytest

from sparsecc.codegen.chatter import no_chatter, quiet_failure


def test_known_notes_are_dropped_and_the_rest_is_kept(capfd):
    with no_chatter():
        os.write(2, b"[12:00:00] executable.cc:276: Warning: Scope Saving:\n[12:00:00] a.cc:1: Warning: something else\n")
    assert capfd.readouterr().err == "[12:00:00] a.cc:1: Warning: something else\n"


def test_without_a_place_to_hold_it_back_it_is_heard(capfd, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    before = len([*Path("/proc/self/fd").iterdir()])
    with no_chatter():
        os.write(2, b"said\n")
    assert capfd.readouterr().err == "said\n"
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def test_an_error_loses_nothing(capfd):
    with pytest.raises(KeyboardInterrupt), no_chatter():
        os.write(2, b"said before\n")
        raise KeyboardInterrupt
    os.write(2, b"said after\n")
    assert capfd.readouterr().err == "said before\nsaid after\n"


def test_threads_take_turns(capfd):
    def hold(text):
        for _ in range(20):
            with no_chatter():
                os.write(2, text)

    threads = [threading.Thread(target=hold, args=(text,)) for text in (b"one\n", b"two\n")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(2, b"after\n")
    lines = capfd.readouterr().err.splitlines()
    assert lines[-1] == "after" and sorted(lines[:-1]) == ["one"] * 20 + ["two"] * 20


class Complains:
    """Like one of TVM's half-built functions."""

    def __del__(self):
        os.write(2, b"[12:00:00] b.cc:67: Warning: BlockBuilder destroyed with remaining blocks!\n")


def fail():
    builder = Complains()
    raise ValueError(f"said by {type(builder).__name__}")


def test_what_a_failure_leaves_behind_goes_quietly(capfd):
    fail_in_tvm = FunctionType(fail.__code__, globals() | {"__name__": "tvm.relax"})

    @quiet_failure()
    def work():
        try:
            fail_in_tvm()
        except ValueError as error:
            raise RuntimeError("all of it failed") from error

    with pytest.raises(RuntimeError, match="all of it failed") as raised:
        work()
    assert "said by Complains" in str(raised.value.__cause__)
    del raised
    assert capfd.readouterr().err == ""


def fail_with(secret):
    raise KeyError(len(secret))


def test_frames_of_the_caller_keep_what_they_hold():
    @quiet_failure()
    def work():
        fail_with("inside")

    try:
        FunctionType(fail_with.__code__, {"__name__": "sparsecc.elsewhere"})("before")
    except KeyError as handled:
        with pytest.raises(KeyError) as raised:
            work()
        assert handled.__traceback__ and handled.__traceback__.tb_next
        assert handled.__traceback__.tb_next.tb_frame.f_locals == {"secret": "before"}
    else:
        pytest.fail("nothing was raised")
    assert raised.traceback[-1].frame.f_locals == {"secret": "inside"}
