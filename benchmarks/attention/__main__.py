"""All tables and pictures of sparse attention that this machine can make, one after the other.

    python -m benchmarks.attention            # on a CPU `benchmarks.paro`, on a GPU kernel, layer and quality
    python -m benchmarks.attention --plan DIR # on a GPU, `one_plan` too, from what it built in DIR on a machine with TVM

Each part is a process of its own, so that none finds another's memory or threads. Exits with 1 where a part missed what it has to reach.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import torch

_CPU = (("benchmarks.paro",),)
_GPU = (("benchmarks.attention.kernel",), ("benchmarks.attention.layer",), ("benchmarks.attention.quality", "--device", "cuda"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", metavar="DIR", help="what `python -m benchmarks.attention.one_plan --build DIR` wrote")
    options = parser.parse_args()
    parts: list[tuple[str, ...]] = [*(_GPU if torch.cuda.is_available() else _CPU)]
    if options.plan is not None:
        parts.append(("benchmarks.attention.one_plan", options.plan))
    codes = []
    for part in parts:
        print("==", *part, flush=True)
        codes.append(subprocess.run([sys.executable, "-m", *part], check=False).returncode)
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
