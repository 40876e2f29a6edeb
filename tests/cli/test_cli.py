from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import sparsecc
from sparsecc import cli, errors
from sparsecc.cli import common


def failed(capsys, *argv):
    """Exit code and the one line on stderr."""
    code = cli.main([str(argument) for argument in argv])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return code, lines[0]


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"sparsecc {sparsecc.__version__}\n"


@pytest.mark.parametrize("argv", [["--help"], []])
def test_help_lists_every_command(capsys, argv):
    assert cli.main(argv) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("convert", "compile", "tune", "run", "bench", "inspect", "explain", "doctor"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["convrt"], "error: No such command 'convrt'. Did you mean 'convert'?"),
        (["convert", "a.onnx"], "error: Missing argument 'OUT.onnx'."),
        (["convert", "a.onnx", "b.onnx", "--recpie", "r"], "No such option: --recpie"),
        (["compile", "a.onnx", "b.sparsecc", "--threads", "0"], "'--threads'"),
        (["convert", "no.onnx", "b.onnx"], "error: no.onnx: no such file"),
        (["convert", "no.onnx", "nowhere/b.onnx"], "there is no folder nowhere"),
        (["convert", "no.onnx", "b.onnx", "--input-shape", "x=1"], "--input-shape 'x=1': expected name:1,3,224,224"),
        (["explain", "no.json"], "error: no.json: cannot be read"),
        (["run", "no.sparsecc"], "error: no.sparsecc: no such file"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(capsys, monkeypatch, tmp_path, argv, message):
    monkeypatch.chdir(tmp_path)
    code, line = failed(capsys, *argv)
    assert code == 2 and message in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (errors.UserError("bad\nname"), 2, "error: bad name"),
        (errors.SparseccError("ours"), 1, "error: ours"),
        (ZeroDivisionError("by zero"), 1, "error: internal: ZeroDivisionError: by zero (--debug shows where)"),
        (MemoryError("46 TiB"), 1, "error: out of memory: 46 TiB"),
        (OSError(28, "No space left on device"), 2, "error: the system refuses: [Errno 28] No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_exit_codes(capsys, monkeypatch, error, code, line):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(cli, "app", fail)
    assert failed(capsys, "doctor") == (code, line)


def test_debug_shows_the_traceback_wherever_it_stands(capsys):
    assert cli.main(["explain", "no.json", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_shapes():
    assert common.input_shapes(None) is None
    assert common.input_shapes(["a:b:1,3,224,224", "y:4"]) == {"a:b": (1, 3, 224, 224), "y": (4,)}
    for wrong in (["x"], [":1"], ["x:0"], ["x:a"], ["x:1", "x:2"]):
        with pytest.raises(errors.UserError):
            common.input_shapes(wrong)


def test_the_input_is_not_overwritten(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(errors.UserError, match="is named twice"):
        common.writable(tmp_path / "a", tmp_path / "a")
    with pytest.raises(errors.UserError, match="is named twice"):
        common.writable(tmp_path / "new", None, tmp_path / "x" / ".." / "new")
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(errors.UserError, match="is named twice"):
        common.writable(tmp_path / "link", tmp_path / "a")


def test_outputs_that_cannot_be_written_are_refused_at_once(tmp_path, monkeypatch):
    with pytest.raises(errors.UserError, match="is a folder"):
        common.writable(tmp_path)
    with pytest.raises(errors.UserError, match="is no regular file"):
        common.writable(Path(os.devnull))
    with pytest.raises(errors.UserError, match="cannot be written: File name too long"):
        common.writable(tmp_path / ("a" * 300))
    with pytest.raises(errors.UserError, match="/proc/f: cannot be written"):
        common.writable(Path("/proc/f"))
    common.writable(tmp_path / "f")
    assert not list(tmp_path.iterdir())


def test_help_loads_nothing_heavy():
    script = (
        "import sys; from sparsecc import cli; cli.main(['--help']); "
        "print([m for m in ('torch', 'tvm', 'onnx', 'onnxruntime', 'numpy', 'transformers') if m in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stderr == "[]\n"


def test_as_a_program():
    result = subprocess.run([sys.executable, "-m", "sparsecc", "run", "no.sparsecc"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr, result.stdout) == (2, "error: no.sparsecc: no such file\n", "")


def test_ctrl_c_as_a_program(interruptible, tmp_path):
    """An interrupt from outside, while a file is being written."""
    output = tmp_path / "y"
    output.write_text("old")
    script = (
        "import sys, time\n"
        "from sparsecc import cli, files\n"
        "def slow(arguments, **options):\n"
        f"    with files.replacing({str(output)!r}) as temporary:\n"
        "        temporary.write_text('half')\n"
        "        print('writing', flush=True)\n"
        "        time.sleep(60)\n"
        "cli.app = slow\n"
        "sys.exit(cli.main([]))\n"
    )
    process = interruptible([sys.executable, "-c", script])
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "interrupted\n")
    assert list(tmp_path.iterdir()) == [output] and output.read_text() == "old"
