"""Each in a process of its own, whose standard streams are as the shell's redirections make them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SAYS = "from sparsecc.cli import streams; streams.prepare(); "


def shell(script: str, redirections: str = "", **environment: str) -> subprocess.CompletedProcess:
    command = f"{sys.executable} -c '{script}' {redirections}"
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=os.environ | environment, check=False)


def test_a_file_does_not_get_the_number_of_a_closed_stream(tmp_path):
    script = (
        SAYS + f'import os; f = open("{tmp_path}/model", "w"); os.write(2, b"chatter"); print(f.fileno() > 2, file=f); streams.say("hello")'
    )
    assert shell(script, "<&- >&- 2>&-").returncode == 0
    assert (tmp_path / "model").read_text() == "True\n"


def test_terminals_of_ascii_are_written_to():
    script = SAYS + r'print("4\u00d73 in 2 \u00b5s \u2192 \u4f60 \udcff")'
    done = shell(script, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "4x3 in 2 us -> \\u4f60 \\udcff\n", "")
    assert shell(script, PYTHONIOENCODING="utf-8").stdout == "4×3 in 2 µs → 你 \\udcff\n"


@pytest.mark.parametrize(
    ("redirections", "code", "said"),
    [
        ("", 0, ""),
        ("> /dev/full", 2, "error: the system refuses: [Errno 28] No space left on device\n"),
        ("2> /dev/full", 0, ""),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("2> /dev/full missing", 2, ""),
        ("2>&- missing", 2, ""),
        ("missing", 2, "error: missing.onnx: no such file\n"),
    ],
)
def test_exit_codes_wherever_the_streams_lead(redirections, code, said):
    script = 'import sys; from sparsecc.cli import main; sys.exit(main(["explain", "missing.onnx"] if sys.argv[1:] else ["--version"]))'
    done = shell(script, redirections)
    assert (done.returncode, done.stderr) == (code, said)
