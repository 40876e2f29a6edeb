"""python -m benchmarks.fuzz: damaged models, recipes, inputs, artifacts, records and reports, each read in a process of its own.

Seeds are made by code, mutators of our own change them: bytes flipped, cut out, repeated and exchanged with other seeds', numbers at their
limits, and for models the fields of the parsed protobuf. Every try has limits of time and memory, and ends in an answer or in an error that
is the user's (exit 2): a signal, a hang and any other exception is a finding, which is kept in a folder with what made it.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import faulthandler
import io
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import fuzz_seeds

LIMIT_S = 20  # of CPU time for one try; none takes more than one when the machine is idle
LIMIT_BYTES = 4 << 30  # of memory beyond what the libraries take
_FOUND = 70  # the exit code of a child that found something
_NUMBERS = (b"0", b"-1", b"1e999", b"9" * 40, b"4294967296", b"9223372036854775808", b"nan")


@dataclass(frozen=True)
class Finding:
    """how: the signal, "hang", or the exception with its innermost place."""

    kind: str
    how: str
    content: bytes


def mutated(content: bytes, others: list[bytes], generator: random.Random) -> bytes:
    """A few changes to a seed's bytes."""
    changed = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 4, 16))):
        place, size = generator.randrange(len(changed) + 1), generator.choice((1, 2, 8, 64, 512))
        match generator.randrange(7):
            case 0 if place < len(changed):
                changed[place] ^= 1 << generator.randrange(8)
            case 1 if place < len(changed):
                changed[place] = generator.randrange(256)
            case 2:
                del changed[place : place + size]
            case 3:
                changed[place:place] = changed[place : place + size] * generator.choice((1, 2, 50))
            case 4:
                other = generator.choice(others)
                start = generator.randrange(len(other) + 1)
                changed[place : place + size] = other[start : start + size]
            case 5:
                changed[place : place + generator.choice((1, 4, 8))] = generator.choice((*_NUMBERS, b"\xff" * 8, bytes(8)))
            case 6:
                del changed[place:]
    return bytes(changed)


def tries(kind: str, generator: random.Random) -> Iterator[bytes]:
    """Without end."""
    seeds = fuzz_seeds.SEEDS[kind]()
    while True:
        seed = generator.choice(seeds)
        refine = fuzz_seeds.MUTATORS.get(kind)
        if refine is not None and generator.random() < 0.7:
            with contextlib.suppress(ValueError, TypeError, OverflowError):
                seed = refine(seed, generator)
        yield mutated(seed, seeds, generator) if refine is None or generator.random() < 0.4 else seed


def attempt(kind: str, content: bytes, folder: Path) -> Finding | None:
    """Read it in a child."""
    path = folder / f"input{fuzz_seeds.SUFFIXES[kind]}"
    path.write_bytes(content)
    said, saying = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(said)
        _child(kind, path, saying)
    os.close(saying)
    with os.fdopen(said, "rb") as stream:
        words = stream.read().decode(errors="replace")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 0:
        return None
    if code in (-signal.SIGXCPU, -signal.SIGALRM, -signal.SIGKILL):
        return Finding(kind, "hang", content)
    return Finding(kind, words.strip() or (signal.Signals(-code).name if code < 0 else f"exit {code}"), content)


def _child(kind: str, path: Path, saying: int) -> None:
    """Never returns."""
    code = _FOUND
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        faulthandler.disable()
        signal.alarm(20 * LIMIT_S)  # for what waits without computing
        resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S + 5))
        most = _address_space() + LIMIT_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        words = _judged(fuzz_seeds.READERS[kind], path)
        code = _FOUND if words else 0
        os.write(saying, words.encode())
    finally:
        os._exit(code)


def _judged(read: Callable[[Path], object], path: Path) -> str:
    """What was raised and where, when it is no mistake of the user's."""
    from sparsecc.errors import UserError

    try:
        read(path)
    except UserError as error:
        return "" if str(error).strip() else "UserError without words"
    except Exception as error:  # noqa: BLE001  # whatever else is a finding
        place = traceback.extract_tb(error.__traceback__)[-1]
        ours = next((frame for frame in reversed(traceback.extract_tb(error.__traceback__)) if "/sparsecc/" in frame.filename), place)
        return f"{type(error).__name__} at {Path(ours.filename).name}:{ours.lineno} ({Path(place.filename).name}): {str(error)[:120]}"
    return ""


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def fuzz(kinds: list[str], seconds: float, seed: int) -> tuple[dict[str, int], list[Finding]]:
    """How many tries of each kind, and what was found: one of each sort."""
    generator, counts = random.Random(seed), collections.Counter[str]()
    for kind in kinds:
        fuzz_seeds.READERS[kind](fuzz_seeds.seed_file(kind))  # so that children find everything imported
    sources = {kind: tries(kind, generator) for kind in kinds}
    found: dict[tuple[str, str], Finding] = {}
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            for kind in kinds:
                finding = attempt(kind, next(sources[kind]), Path(folder))
                counts[kind] += 1
                if finding is not None:
                    found.setdefault((kind, finding.how.partition(": ")[0]), finding)
    return dict(counts), list(found.values())


def _kinds(text: str) -> list[str]:
    kinds = text.split(",")
    unknown = [kind for kind in kinds if kind not in fuzz_seeds.READERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(fuzz_seeds.READERS)}")
    return kinds


def main() -> int:
    """1 when something was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--kinds", type=_kinds, default=[*fuzz_seeds.READERS], help="of " + ", ".join(fuzz_seeds.READERS))
    parser.add_argument("--out", type=Path, default=Path("fuzz-out"), help="folder for what is found")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}, {arguments.seconds:g} s", flush=True)
    with contextlib.redirect_stderr(io.StringIO()):
        counts, findings = fuzz(arguments.kinds, arguments.seconds, arguments.seed)
    for number, finding in enumerate(findings):
        arguments.out.mkdir(exist_ok=True)
        path = arguments.out / f"{finding.kind}-{number}{fuzz_seeds.SUFFIXES[finding.kind]}"
        path.write_bytes(finding.content)
        print(f"{path}: {finding.how}")
    print(", ".join(f"{kind}: {count} tries" for kind, count in counts.items()), f"; {len(findings)} sorts of findings")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
