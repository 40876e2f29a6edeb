from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading

import pytest

from sparsecc import cli
from sparsecc.cli.interrupts import noting_interrupts
from sparsecc.errors import ModelError


def test_an_interrupt_is_noted_and_raised():
    with pytest.raises(KeyboardInterrupt), noting_interrupts() as noted:
        os.kill(os.getpid(), signal.SIGINT)
    assert noted == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_who_ignores_interrupts_goes_on_ignoring_them():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with noting_interrupts() as noted:
            os.kill(os.getpid(), signal.SIGINT)
        assert noted == [] and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_other_threads_install_nothing():
    seen = []

    def work():
        with noting_interrupts() as noted:
            seen.append(noted)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [[]]


def swallowed():
    """As TVM does with it in its callbacks."""
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raise RuntimeError from None


def misread():
    """As where an error of TVM's is taken for one of the model."""
    try:
        swallowed()
    except RuntimeError as error:
        raise ModelError("the compiler cannot generate code for Relu (at 'a')") from error


@pytest.mark.parametrize("body", [swallowed, misread, lambda: os.kill(os.getpid(), signal.SIGINT)])
def test_every_interrupted_command_says_so(capsys, monkeypatch, body):
    monkeypatch.setattr("sparsecc.cli.doctor._measure", lambda threads: body())
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_logs_are_for_debugging(capfd, monkeypatch):
    """In a process whose logging nobody has set up."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(cli, "app", lambda *arguments, **options: logging.getLogger("sparsecc.graph").warning("left unsimplified"))
    assert cli.main([]) == 0
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(root, "handlers", [])
    assert cli.main(["--debug"]) == 0
    assert "left unsimplified" in capfd.readouterr().err


def test_a_request_to_end_leaves_nothing_behind(tmp_path):
    script = (
        "import os, signal, sys\n"
        "from sparsecc import cli, files\n"
        "def command(*arguments, **options):\n"
        f"    with files.replacing({str(tmp_path / 'f')!r}) as temporary:\n"
        "        os.kill(os.getpid(), getattr(signal, sys.argv[1]))\n"
        "cli.app = command\n"
        "sys.exit(cli.main(['doctor']))\n"
    )
    for name, code in (("SIGTERM", 143), ("SIGHUP", 129)):
        done = subprocess.run([sys.executable, "-c", script, name], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (code, f"ended by {name}\n")
        assert not list(tmp_path.iterdir())
