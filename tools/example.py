"""Run an example of the README and write what it prints below it.

    python -m tools.example                       # the first, also in the first page of the documentation: `make example`
    python -m tools.example --goal [--minutes 30] # the second, and its picture: `make example-goal`

Times in what they print are of the machine that runs them: run them where nothing else does.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "start" / "torch.md")
PICTURE = ROOT / "benchmarks" / "results" / "example-goal.png"
_EXAMPLE = re.compile(r"(<!-- example -->\n```python\n)(.*?)(```\n.*?```text\n)(.*?)(```\n<!-- end of example -->)", re.DOTALL)
_GOAL = re.compile(r"(<!-- example of a goal -->\n```sh\n)(.*?)(```\n.*?```text\n)(.*?)(```\n<!-- end of example -->)", re.DOTALL)
_DRAWN = re.compile(r'src="data:image/png;base64,([^"]+)"')
_SENTENCES = 256
_WIDTH = 140  # of what is printed


def code_of(page: str) -> str:
    """The code of the example. Raises ValueError for a page without one."""
    return _found(page)[2]


def printed_by(page: str) -> str:
    """What the page says that the example prints."""
    return _found(page)[4]


def command_of(page: str) -> str:
    """The command of the example that searches for a goal. Raises ValueError for a page without one."""
    return _found(page, _GOAL)[2]


def _found(page: str, example: re.Pattern[str] = _EXAMPLE) -> re.Match[str]:
    found = example.search(page)
    if found is None:
        raise ValueError(f"no example: nothing fits {example.pattern.splitlines()[0]}")
    return found


def _run(code: str) -> str:
    """What the code prints. Files that it writes vanish."""
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(printed):
        before = Path.cwd()
        os.chdir(folder)
        try:
            exec(compile(code, "README.md", "exec"), {})
        finally:
            os.chdir(before)
    return printed.getvalue()


def _search(command: str) -> tuple[str, bytes]:
    """What the command prints, and the picture of its page. Raises RuntimeError where it fails."""
    program, *arguments = shlex.split(command)
    if program != "sparsecc":
        raise ValueError(f"the example runs {program}, not sparsecc")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _minilm(folder)
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [sys.executable, "-m", "sparsecc", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command.strip()}: ended with {done.returncode}\n{done.stdout}")
        return done.stdout, picture_of((folder / arguments[arguments.index("--out") + 1] / "search.html").read_text())


def picture_of(page: str) -> bytes:
    """The PNG in a page of a search. Raises ValueError where there is none."""
    found = _DRAWN.search(page)
    if found is None:
        raise ValueError("the page has no picture; pictures need matplotlib")
    return b64decode(found[1])


def _minilm(folder: Path) -> None:
    """minilm.onnx and sentences.npz, as the example names them."""
    import numpy as np

    from benchmarks.export import exported
    from models import minilm

    names = ("input_ids", "attention_mask")
    (folder / "minilm.onnx").write_bytes(exported("minilm", minilm.build(), minilm.example_inputs(1), names).read_bytes())
    tokens = minilm.tokenize(minilm.calibration_sentences(_SENTENCES))
    ids, mask = (value.numpy() for value in tokens)
    np.savez(folder / "sentences.npz", input_ids=ids, attention_mask=mask)


def shortened(printed: str) -> str:
    """The verdict, the dense model, and the models that no other beats, each line cut where the page ends."""
    return "".join(f"{line if len(line) <= _WIDTH else line[: _WIDTH - 4] + ' ...'}\n" for line in _kept(printed.splitlines()))


def _kept(lines: list[str]) -> Iterator[str]:
    rows = [line for line in lines if re.match(r" *\d+\.\d+ ms ", line)]
    yield lines[0]
    for line in rows:
        if line is rows[0] or re.search(r"  (front|best ) ", line):
            yield line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--goal", action="store_true", help="the example that searches for a goal")
    parser.add_argument("--minutes", help="of the search, also in the command that the page shows; left out: as that has it")
    arguments = parser.parse_args()
    if not arguments.goal:
        printed = _run(code_of(PAGES[0].read_text()))
        for path in PAGES:
            path.write_text(_EXAMPLE.sub(lambda found: f"{found[1]}{found[2]}{found[3]}{printed}{found[5]}", path.read_text()))
        print(printed, end="")
        return
    page = PAGES[0].read_text()
    command = command_of(page)
    if arguments.minutes:
        command = re.sub(r"--minutes \S+", f"--minutes {arguments.minutes}", command)
    printed, picture = _search(command)
    PICTURE.write_bytes(picture)
    PAGES[0].write_text(_GOAL.sub(lambda found: f"{found[1]}{command}{found[3]}{shortened(printed)}{found[5]}", page))
    print(printed, end="")


if __name__ == "__main__":
    main()
