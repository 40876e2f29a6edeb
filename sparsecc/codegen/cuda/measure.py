"""How long kernels take on a GPU: CUDA graphs of many calls over rotated weights, replayed in turns.

A weight that is used again and again stays in the L2 cache, which no weight of a whole model does; and a single launch takes longer than a
small kernel. So each graph holds calls for several copies of the weights, more bytes together than the cache.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.timing import Spread

COLD_BYTES = 256 << 20  # of rotated copies; the largest L2 cache has 60 MB


_UNTIMED = 2  # rounds at first, which load code and raise clocks
_FEWEST = 3  # rounds that are timed
_MOST_COPIES = 256  # small ones stay in a cache in a model, too


def copies(weight_bytes: int) -> int:
    """How many of a weight to rotate."""
    return min(_MOST_COPIES, max(1 if weight_bytes > COLD_BYTES else 4, -(-COLD_BYTES // max(1, weight_bytes))))


def rotated(weight: Tensor) -> list[Tensor]:
    """It and as many copies as are needed."""
    return [weight, *(weight.clone() for _ in range(copies(weight.nbytes) - 1))]


def graph(calls: Sequence[Callable[[], object]], at_least: int = 20) -> tuple[torch.cuda.CUDAGraph, int]:
    """The calls, one after another and all over again until there are `at_least`, captured; and how many there are."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    captured, rounds = torch.cuda.CUDAGraph(), -(-at_least // len(calls))
    with torch.cuda.graph(captured):
        for _ in range(rounds):
            for call in calls:
                call()
    return captured, rounds * len(calls)


def in_turns(candidates: Sequence[Sequence[Callable[[], object]]], rounds: int = 15, at_least: int = 20) -> list[Spread]:
    """Microseconds of a call for each candidate, which is the calls for its rotated copies; of all of them in turns, A B C A B C.

    Raises what a candidate's call raises."""
    return [Spread.of(times) for times in replayed([graph(calls, at_least) for calls in candidates], rounds)]


def replayed(graphs: Sequence[tuple[torch.cuda.CUDAGraph, int]], rounds: int, seconds: float = math.inf) -> list[list[float]]:
    """Microseconds of a call in each round, for each graph of so many calls; of all of them in turns.  seconds: after which no further
    round is begun, when there are three."""
    taken: list[list[float]] = [[] for _ in graphs]
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun = time.perf_counter()
    for number in range(rounds + _UNTIMED):
        if number >= _UNTIMED + _FEWEST and time.perf_counter() - begun > seconds:
            break
        for (captured, count), times in zip(graphs, taken, strict=True):
            start.record()
            captured.replay()
            end.record()
            end.synchronize()
            if number >= _UNTIMED:
                times.append(start.elapsed_time(end) * 1000 / count)
    return taken


def linear_us(rows: int, depth: int, tokens: int, dtype: torch.dtype, device: torch.device) -> float:
    """Of a dense layer as torch runs it, over rotated weights."""
    x = torch.randn(tokens, depth, device=device, dtype=dtype)
    weights = rotated(torch.randn(rows, depth, device=device, dtype=dtype))
    calls: list[Callable[[], object]] = [functools.partial(functional.linear, x, weight) for weight in weights]
    return in_turns([calls])[0].median
