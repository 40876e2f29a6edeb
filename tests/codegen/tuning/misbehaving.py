"""The process that measures, with one more kernel: `misbehaving`, the dense one that does what its `groups` say."""

from __future__ import annotations

import os
import signal
import sys
import threading
from dataclasses import replace

import numpy as np

from sparsecc.codegen.cpu.kernels import dense_matmul
from sparsecc.codegen.cpu.pieces.tiles import Tiles
from sparsecc.codegen.kernel import kernels
from sparsecc.codegen.spec import MatmulSpec
from sparsecc.codegen.tuning import measure

FINE, SEGFAULT, HANG, RAISE, WRONG, EXIT, NAN, KILLED = range(1, 9)


def prepare(matrix: np.ndarray, bias: np.ndarray | None, spec: MatmulSpec, knobs: Tiles) -> list[np.ndarray]:
    print("what a library prints is no reply")
    match knobs.groups:
        case 2:
            os.kill(os.getpid(), signal.SIGSEGV)
        case 3:
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()
        case 4:
            raise ValueError("first\nno such register")
        case 5:
            matrix = 2 * matrix
        case 6:
            print("out of luck", file=sys.stderr, flush=True)
            os._exit(3)
        case 7:
            matrix = matrix * np.float32("nan")
        case 8:
            os.kill(os.getpid(), signal.SIGKILL)
    return dense_matmul.prepare(matrix, bias, spec, knobs)


def install() -> None:
    rows = kernels("cpu")
    rows["misbehaving"] = replace(rows["dense_matmul"], prepare=prepare)


if __name__ == "__main__":
    install()
    measure.main()
